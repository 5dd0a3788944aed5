//! Which issuer's turn it is, and when an order is taken from an issuer that does not bring it to an end.

use std::time::Duration;

use super::{Issuance, Issuer, Order, Phase, Upkeep, next::budget, retry_at};
use crate::{record::Certificate, state::ClusterState, time::Timestamp};

/// A certificate with less than this left is worth asking another issuer for.
const URGENT: Duration = Duration::from_secs(3 * 86_400);
/// Attempts in a row after which a certificate that is urgent is asked for at the next issuer.
const FALLBACK_AFTER: u32 = 2;
/// How long an order waits at most that is being issued: the certificate is likely to be there, and nothing else can
/// be done for its names meanwhile.
const ISSUING_WAIT: Duration = Duration::from_secs(3600);

/// Until when an issuer is left alone; none = it is not.
pub(super) fn held_until(issuance: &Issuance, directory: &str, now: Timestamp) -> Option<Timestamp> {
    issuance.held.get(directory).map(|hold| hold.until).filter(|until| *until > now)
}

/// Whether a certificate may soon be missing: there is none that visitors trust, or less than a fifth of its life or
/// three days are left.
fn is_urgent(issuance: &Issuance, certificate: Option<&Certificate>, now: Timestamp) -> bool {
    let Some(certificate) = certificate.filter(|c| issuance.sources.contains_key(&c.id)) else { return true };
    let life = certificate.not_after.since(certificate.not_before);
    let left = certificate.not_after.since(now);
    left < life / 5 || (life > 3 * URGENT && left < URGENT)
}

/// The issuer to ask: the first one; where it is urgent, another one takes turns with it after some failures, or while
/// it wants to be left alone. None while all want to be.
#[must_use]
pub fn chosen_issuer<'a>(
    issuance: &'a Issuance,
    upkeep: Option<&Upkeep>,
    certificate: Option<&Certificate>,
    now: Timestamp,
) -> Option<&'a Issuer> {
    let open = |issuer: &&Issuer| held_until(issuance, &issuer.directory, now).is_none();
    if !is_urgent(issuance, certificate, now) {
        return issuance.issuers.first().filter(open);
    }
    let turn = upkeep.map_or(0, |upkeep| upkeep.failures / FALLBACK_AFTER);
    let count = issuance.issuers.len();
    let first = usize::try_from(turn).unwrap_or(0).checked_rem(count)?;
    issuance.issuers.iter().cycle().skip(first).take(count).find(open)
}

/// The issuer that an order moves to, at once: another one's turn has come, and its own issuer has not taken it, or has
/// failed often enough since, or is none any more. One that may be issued already stays where it is.
pub(super) fn stand_in<'a>(
    state: &'a ClusterState,
    upkeep: &Upkeep,
    certificate: Option<&Certificate>,
    now: Timestamp,
) -> Option<&'a Issuer> {
    let order = upkeep.order.as_ref()?;
    let failed = || upkeep.failures >= FALLBACK_AFTER || state.issuance().issuer(&order.directory).is_none();
    let may_move = order.phase < Phase::Ordered || (order.phase < Phase::Finalizing && failed());
    if may_move { open_turn(state, upkeep, order, certificate, now) } else { None }
}

/// The issuer whose turn it is, if it is not the order's own and can be asked now.
fn open_turn<'a>(
    state: &'a ClusterState,
    upkeep: &Upkeep,
    order: &Order,
    certificate: Option<&Certificate>,
    now: Timestamp,
) -> Option<&'a Issuer> {
    let issuer = chosen_issuer(state.issuance(), Some(upkeep), certificate, now)?;
    let open = issuer.directory != order.directory
        && !state.rollovers().account_keys.contains_key(&issuer.directory)
        && budget(state, issuer, Some(upkeep), &upkeep.names, now).is_none();
    open.then_some(issuer)
}

/// Whether an order that is being issued may be given up once it has failed once more: its issuer is none any more, or
/// has forgotten it by now, or the certificate is urgent and another issuer's turn has come. Its generation is skipped
/// then: the issuer may have issued it all the same.
#[must_use]
pub fn may_give_up(state: &ClusterState, upkeep: &Upkeep, now: Timestamp) -> bool {
    let Some(order) = upkeep.order.as_ref().filter(|order| order.phase == Phase::Finalizing) else {
        return false;
    };
    let issuance = state.issuance();
    if issuance.issuer(&order.directory).is_none() || order.expires.is_some_and(|at| at <= now) {
        return true;
    }
    let certificate = state.certificates().get(&upkeep.id);
    let after = Upkeep { failures: upkeep.failures.saturating_add(1), ..upkeep.clone() };
    after.failures >= FALLBACK_AFTER
        && is_urgent(issuance, certificate, now)
        && open_turn(state, &after, order, certificate, now).is_some()
}

/// When it is tried again if an attempt fails at `now`. Every issuer is asked by the plan of [`retry_at`], as if it were
/// the only one; when another one's turn comes, that is at once.
#[must_use]
pub fn again_at(state: &ClusterState, upkeep: &Upkeep, now: Timestamp) -> Timestamp {
    let issuance = state.issuance();
    let certificate = state.certificates().get(&upkeep.id);
    let failures = upkeep.failures.saturating_add(1);
    let count = u32::try_from(issuance.issuers.len()).unwrap_or(u32::MAX);
    let planned = if count < 2 || !is_urgent(issuance, certificate, now) {
        retry_at(upkeep.id, failures, now, None)
    } else {
        let round = FALLBACK_AFTER.saturating_mul(count);
        let of_this_issuer =
            |failures: u32| failures / round * FALLBACK_AFTER + failures % FALLBACK_AFTER + 1;
        match failures.is_multiple_of(FALLBACK_AFTER) && !failures.is_multiple_of(round) {
            true => now,
            false => retry_at(upkeep.id, of_this_issuer(upkeep.failures), now, None),
        }
    };
    let issuing = upkeep.order.as_ref().is_some_and(|order| order.phase == Phase::Finalizing);
    if issuing { planned.min(now + ISSUING_WAIT) } else { planned }
}
