//! What authorities answer. The bytes come from outside: everything is looked at before it is used.

use std::time::Duration;

use rustls_acme::acme::{Auth, AuthStatus, ChallengeType, Identifier, Order, OrderStatus};
use serde::Deserialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::error::Problem;

/// Longest text of an authority's that is kept, in bytes.
const TEXT_MAX: usize = 512;
/// What problem types begin with (RFC 8555 §6.7).
const PROBLEM_TYPE: &str = "urn:ietf:params:acme:error:";
/// Most profiles of a directory that are named in a message.
const PROFILES_SHOWN: usize = 8;
/// Most authorizations of an order: one for each name.
const AUTHORIZATIONS_MAX: usize = 100;

/// Where an authority's resources are (RFC 8555 §7.1.1).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Directory {
    /// Fresh nonces.
    pub new_nonce: String,
    /// Accounts.
    pub new_account: String,
    /// Orders.
    pub new_order: String,
    /// Revocations.
    pub revoke_cert: Option<String>,
    /// Other keys for accounts.
    pub key_change: Option<String>,
    /// When to renew (RFC 9773 §4.1).
    pub renewal_info: Option<String>,
    /// About the authority.
    #[serde(default)]
    pub meta: Meta,
}

impl Directory {
    /// Why a profile cannot be ordered here (draft-ietf-acme-profiles §3); none if it can, or if the directory lists none.
    pub(crate) fn refuses_profile(&self, profile: &str) -> Option<Problem> {
        let listed = &self.meta.profiles;
        if listed.is_empty() || listed.contains_key(profile) {
            return None;
        }
        let known: Vec<&str> = listed.keys().map(String::as_str).take(PROFILES_SHOWN).collect();
        let detail = cut(&format!("there is no profile {profile}; there is {}", known.join(", ")));
        Some(Problem { status: 0, kind: "invalidProfile".to_owned(), detail, retry_after: None })
    }
}

/// See [`Directory::meta`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Its names in CAA records.
    pub caa_identities: Vec<String>,
    /// It takes only accounts that are bound to one given by other means.
    pub external_account_required: bool,
    /// Kinds of certificates, with what they are.
    pub profiles: std::collections::BTreeMap<String, Value>,
}

/// An order, as the authority has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderState {
    /// Names have to be proved.
    Pending,
    /// All is proved: it can be finalized.
    Ready,
    /// It is being issued.
    Processing,
    /// It is issued.
    Valid {
        /// Where the certificate is.
        certificate: String,
    },
    /// It will never be issued.
    Invalid(Problem),
}

/// An order with what is needed to go on with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    /// Its address.
    pub url: String,
    /// How far it is.
    pub state: OrderState,
    /// The proofs of its names.
    pub authorizations: Vec<String>,
    /// Where it is finalized.
    pub finalize: String,
    /// When the authority forgets it, in milliseconds since 1970.
    pub expires: Option<u64>,
    /// When the authority wants to be asked again.
    pub retry_after: Option<Duration>,
}

/// How far the proof of a name is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuthorizationState {
    /// It has to be proved.
    Pending,
    /// It is proved.
    Valid,
    /// It was not proved, and will not be with this order.
    Invalid(Problem),
}

/// The proof of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// The name, without a wildcard's first label.
    pub name: String,
    /// How far it is.
    pub state: AuthorizationState,
    /// The challenge by DNS: its address and its token.
    pub challenge: Option<(String, String)>,
    /// When the authority wants to be asked again.
    pub retry_after: Option<Duration>,
}

/// When the authority wants a certificate to be renewed (RFC 9773 §4.2). Milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenewalInfo {
    /// From when.
    pub start: u64,
    /// Until when.
    pub end: u64,
    /// Where it says why.
    pub explanation: Option<String>,
    /// When it wants to be asked again.
    pub retry_after: Option<Duration>,
}

fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(TEXT_MAX / 4).collect()
}

/// Milliseconds since 1970 of an RFC 3339 time.
fn moment(text: &str) -> Option<u64> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    u64::try_from(at.unix_timestamp_nanos() / 1_000_000).ok()
}

/// A problem document (RFC 7807); also what says nothing becomes one.
pub(crate) fn problem(status: u16, value: &Value, retry_after: Option<Duration>) -> Problem {
    let text =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).map(cut).unwrap_or_default();
    let kind = text(value, "type");
    let mut detail = text(value, "detail");
    let parts = value.get("subproblems").and_then(Value::as_array).into_iter().flatten();
    for part in parts.take(4) {
        let name = part.get("identifier").map(|identifier| text(identifier, "value")).unwrap_or_default();
        detail.push_str(&format!("; {name}: {}", text(part, "detail")));
    }
    if detail.is_empty() {
        detail = format!("status {status} without a reason");
    }
    let kind = kind.strip_prefix(PROBLEM_TYPE).unwrap_or_default().to_owned();
    Problem { status, kind, detail, retry_after }
}

pub(crate) fn order(url: &str, value: Value, retry_after: Option<Duration>) -> Result<Submitted, String> {
    let expires = value.get("expires").and_then(Value::as_str).and_then(moment);
    let error = problem(0, value.get("error").unwrap_or(&Value::Null), None);
    let order: Order = serde_json::from_value(value).map_err(|error| format!("not an order: {error}"))?;
    if order.authorizations.len() > AUTHORIZATIONS_MAX {
        return Err(format!("an order with {} authorizations", order.authorizations.len()));
    }
    let state = match order.status {
        OrderStatus::Pending => OrderState::Pending,
        OrderStatus::Ready => OrderState::Ready,
        OrderStatus::Processing => OrderState::Processing,
        OrderStatus::Valid { certificate } => OrderState::Valid { certificate },
        OrderStatus::Invalid => OrderState::Invalid(error),
    };
    let (authorizations, finalize) = (order.authorizations, order.finalize);
    Ok(Submitted { url: url.to_owned(), state, authorizations, finalize, expires, retry_after })
}

pub(crate) fn authorization(value: Value, retry_after: Option<Duration>) -> Result<Authorization, String> {
    // The reason why a proof failed stands in its challenge.
    let challenges = value.get("challenges").and_then(Value::as_array);
    let failed = challenges.into_iter().flatten().find_map(|challenge| challenge.get("error"));
    let error = problem(0, failed.unwrap_or(&Value::Null), None);
    let found: Auth =
        serde_json::from_value(value).map_err(|error| format!("not an authorization: {error}"))?;
    let Identifier::Dns(name) = found.identifier;
    let state = match found.status {
        AuthStatus::Pending => AuthorizationState::Pending,
        AuthStatus::Valid => AuthorizationState::Valid,
        AuthStatus::Invalid | AuthStatus::Revoked | AuthStatus::Expired | AuthStatus::Deactivated => {
            AuthorizationState::Invalid(error)
        }
    };
    let challenge = found.challenges.into_iter().find(|challenge| challenge.typ == ChallengeType::Dns01);
    let challenge = challenge.map(|challenge| (challenge.url, challenge.token));
    Ok(Authorization { name, state, challenge, retry_after })
}

pub(crate) fn renewal_info(value: &Value, retry_after: Option<Duration>) -> Result<RenewalInfo, String> {
    let at = |name: &str| {
        let text = value.get("suggestedWindow").and_then(|window| window.get(name)).and_then(Value::as_str);
        text.and_then(moment).ok_or_else(|| format!("the {name} of the window is not a time"))
    };
    let (start, end) = (at("start")?, at("end")?);
    if end < start {
        return Err("the window ends before it begins".to_owned());
    }
    let explanation =
        value.get("explanationURL").and_then(Value::as_str).map(cut).filter(|url| !url.is_empty());
    Ok(RenewalInfo { start, end, explanation, retry_after })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn orders_are_read_in_all_their_states() {
        let state = |mut more: Value| {
            more["authorizations"] = json!(["https://ca.test/a/1"]);
            more["finalize"] = json!("https://ca.test/f/1");
            order("https://ca.test/o/1", more, None).map(|order| order.state)
        };
        assert_eq!(state(json!({"status": "pending"})), Ok(OrderState::Pending));
        assert_eq!(state(json!({"status": "ready"})), Ok(OrderState::Ready));
        assert_eq!(state(json!({"status": "processing"})), Ok(OrderState::Processing));
        let certificate = "https://ca.test/c/1".to_owned();
        let valid = json!({"status": "valid", "certificate": certificate});
        assert_eq!(state(valid), Ok(OrderState::Valid { certificate }));
        let error = json!({"type": "urn:ietf:params:acme:error:unauthorized", "detail": "no TXT"});
        let Ok(OrderState::Invalid(problem)) = state(json!({"status": "invalid", "error": error})) else {
            panic!("not invalid")
        };
        assert_eq!((problem.kind.as_str(), problem.detail.as_str()), ("unauthorized", "no TXT"));
        assert!(state(json!({"status": "lost"})).is_err());
        assert!(state(json!({"status": "valid"})).is_err(), "valid without a certificate");
    }

    #[test]
    fn an_authorization_has_its_challenge_by_dns_among_others_that_are_not_known() {
        let value = json!({
            "status": "invalid", "identifier": {"type": "dns", "value": "a.test"}, "wildcard": true,
            "challenges": [
                {"type": "dns-persist-01", "url": "https://ca.test/1"},
                {"type": "dns-01", "url": "https://ca.test/2", "token": "abc",
                 "error": {"type": "urn:ietf:params:acme:error:dns", "detail": "SERVFAIL"}},
            ],
        });
        let found = authorization(value, None).expect("an authorization");
        assert_eq!(found.challenge, Some(("https://ca.test/2".to_owned(), "abc".to_owned())));
        assert!(
            matches!(found.state, AuthorizationState::Invalid(p) if p.kind == "dns" && p.detail == "SERVFAIL")
        );
    }

    #[test]
    fn a_window_is_read_and_one_that_is_none_refused() {
        let window = |start: &str, end: &str| {
            let value = json!({"suggestedWindow": {"start": start, "end": end}, "explanationURL": "https://why.test/"});
            renewal_info(&value, None)
        };
        let read = window("1970-01-01T00:00:01Z", "1970-01-01T00:00:02.5Z").expect("a window");
        assert_eq!(
            (read.start, read.end, read.explanation.as_deref()),
            (1000, 2500, Some("https://why.test/"))
        );
        assert!(window("1970-01-01T00:00:02Z", "1970-01-01T00:00:01Z").is_err());
        assert!(window("yesterday", "tomorrow").is_err());
    }

    #[test]
    fn a_profile_is_refused_where_others_are_listed_and_it_is_not() {
        let directory = |meta: Value| -> Directory {
            let url = "https://ca.test/x";
            let value = json!({ "newNonce": url, "newAccount": url, "newOrder": url, "meta": meta });
            serde_json::from_value(value).expect("a directory")
        };
        let refused = |meta: Value, profile: &str| {
            directory(meta).refuses_profile(profile).map(|problem| problem.to_string())
        };
        let listed = json!({ "profiles": { "classic": "the usual", "shortlived": "a week" } });
        assert_eq!(refused(listed.clone(), "shortlived"), None);
        assert_eq!(
            refused(listed, "short").as_deref(),
            Some("invalidProfile: there is no profile short; there is classic, shortlived")
        );
        assert_eq!(refused(json!({}), "short"), None, "it is for the authority to say");
    }

    #[test]
    fn a_problem_tells_what_concerns_each_name() {
        let value = json!({
            "type": "urn:ietf:params:acme:error:rejectedIdentifier", "detail": "no",
            "subproblems": [{"identifier": {"type": "dns", "value": "x.test"}, "detail": "forbidden"}],
        });
        assert_eq!(problem(400, &value, None).to_string(), "rejectedIdentifier: no; x.test: forbidden");
        assert_eq!(problem(502, &Value::Null, None).to_string(), "status 502 without a reason");
    }
}
