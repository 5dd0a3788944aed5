//! Copies of zones for servers elsewhere (RFC 5936), for those who have the key (TSIG, RFC 8945). What they are given
//! does not follow health: they would not hear of changes in time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use domain::{
    base::{
        Message, MessageBuilder, Name, Rtype, Ttl,
        iana::{Class, Opcode, Rcode},
        message_builder::AnswerBuilder,
        rdata::UnknownRecordData,
    },
    rdata::tsig::Time48,
    tsig::{Algorithm, Key, KeyName, ServerSequence, ServerTransaction},
};
use pangolin_core::{
    name::HostName,
    plan::{DnsPlan, PlannedSet, RecordSets, ZonePlan},
    record::RecordKind,
};

use crate::{
    Answered, Context, DnsError, Outcome, Store, answer,
    defect::Defect,
    name::WireName,
    record::{Set, wire_name},
    request::HEADER,
};

/// Bytes after which a message of a transfer is closed and the next one begun: names are compressed within the first
/// 16 KiB of a message only.
const MESSAGE_HIGH: usize = 16 << 10;

/// Type and class of a TSIG record (RFC 8945 §4.2): a message without these bytes has none.
const TSIG_ANY: [u8; 4] = [0, 250, 0, 255];

/// A shared secret (TSIG, HMAC-SHA256). Does not print.
#[derive(Clone)]
pub(crate) struct TransferKey(Arc<Key>);

impl TransferKey {
    pub(crate) fn new(name: &HostName, secret: &[u8]) -> Result<Self, DnsError> {
        let bad = |what: String| DnsError::Key { what: format!("the key {name}: {what}") };
        let wire: KeyName =
            name.as_str().parse().map_err(|_| bad("its name is no domain name".to_owned()))?;
        let key = Key::new(Algorithm::Sha256, secret, wire, None, None);
        Ok(Self(Arc::new(key.map_err(|error| bad(error.to_string()))?)))
    }

    /// The key itself.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn key(&self) -> &Arc<Key> {
        &self.0
    }

    pub(crate) fn entry(&self) -> ((KeyName, Algorithm), Arc<Key>) {
        ((self.0.name().clone(), self.0.algorithm()), Arc::clone(&self.0))
    }
}

/// Keys by name.
pub(crate) type TransferKeys = HashMap<(KeyName, Algorithm), Arc<Key>>;

/// What secondaries may have.
#[derive(Default)]
pub(crate) struct Transfers {
    pub(crate) plan: Arc<DnsPlan>,
    pub(crate) keys: TransferKeys,
}

impl Transfers {
    /// Answers a signed message over UDP, or one over TCP that is no transfer, with a signed reply. None if the
    /// message is not signed with a key of ours: it is answered like any other.
    pub(crate) fn answer_signed(
        &self,
        store: &Store,
        context: &Context<'_>,
        message: &[u8],
        reply: &mut Vec<u8>,
    ) -> Option<Outcome> {
        let mut request = self.signed(message)?;
        let now = now(context);
        let transaction = match ServerTransaction::request(&self.keys, &mut request, now) {
            Ok(transaction) => transaction?,
            Err(error) => {
                let refusal = error.build_message(&request, MessageBuilder::new_vec()).ok()?;
                *reply = refusal.finish();
                return Some(refused());
            }
        };
        let outcome = answer(store, context, request.as_slice(), reply);
        if let Outcome::Answered(_) = outcome {
            let mut signed = again(reply)?;
            transaction.answer(&mut signed, now).ok()?;
            *reply = signed.finish();
        }
        Some(outcome)
    }

    /// The messages of a transfer, if that is what is asked for and may be had: by TCP, with the key of one of the
    /// zone's secondaries.
    pub(crate) fn answer_transfer(&self, context: &Context<'_>, message: &[u8]) -> Option<Vec<Vec<u8>>> {
        let mut request = self.signed(message)?;
        let question = request.sole_question().ok()?;
        if !matches!(question.qtype(), Rtype::AXFR | Rtype::IXFR) || question.qclass() != Class::IN {
            return None;
        }
        let now = now(context);
        let apex = question.qname().to_string();
        let mut sequence = match ServerSequence::request(&self.keys, &mut request, now) {
            Ok(sequence) => sequence?,
            Err(error) => {
                return Some(vec![error.build_message(&request, MessageBuilder::new_vec()).ok()?.finish()]);
            }
        };
        let used = sequence.key().name().to_string();
        let zone = self.plan.zones.iter().find(|zone| same_name(zone.apex.as_str(), &apex));
        let allowed =
            zone.filter(|zone| zone.secondaries.iter().any(|(_, key)| same_name(key.as_str(), &used)));
        let mut messages = Vec::new();
        let mut finish = |builder: AnswerBuilder<Vec<u8>>| -> Option<()> {
            let mut builder = builder.additional();
            sequence.answer(&mut builder, now).ok()?;
            messages.push(builder.finish());
            Some(())
        };
        let Some(zone) = allowed else {
            let refusal = MessageBuilder::new_vec().start_answer(&request, Rcode::REFUSED).ok()?;
            finish(refusal)?;
            return Some(messages);
        };
        tracing::info!(zone = %zone.apex, client = %context.client, key = %used, "the zone is transferred");
        let mut builder = begin(&request)?;
        for (owner, set) in records(zone).ok()? {
            for data in set.data() {
                let data = UnknownRecordData::from_octets(set.kind, data).ok()?;
                builder.push((&owner, Class::IN, Ttl::from_secs(set.ttl()), data)).ok()?;
            }
            if builder.as_slice().len() > MESSAGE_HIGH {
                finish(std::mem::replace(&mut builder, begin(&request)?))?;
            }
        }
        finish(builder)?;
        Some(messages)
    }

    /// The message, if it may be signed with a key of ours.
    fn signed(&self, message: &[u8]) -> Option<Message<Vec<u8>>> {
        if self.keys.is_empty()
            || message.len() < HEADER
            || !message.windows(4).any(|bytes| bytes == TSIG_ANY)
        {
            return None;
        }
        let message = Message::from_octets(message.to_vec()).ok()?;
        let header = message.header();
        let query = !header.qr() && header.opcode() == Opcode::QUERY;
        let last = message.additional().ok()?.last()?.ok()?;
        (query && last.rtype() == Rtype::TSIG).then_some(message)
    }
}

fn refused() -> Outcome {
    Outcome::Answered(Answered {
        rcode: Rcode::NOTAUTH.into(),
        truncated: false,
        cookie_valid: false,
        question_end: HEADER,
    })
}

fn now(context: &Context<'_>) -> Time48 {
    Time48::from_u64(u64::from(context.now))
}

fn same_name(one: &str, other: &str) -> bool {
    one.trim_end_matches('.').eq_ignore_ascii_case(other.trim_end_matches('.'))
}

fn begin(request: &Message<Vec<u8>>) -> Option<AnswerBuilder<Vec<u8>>> {
    let mut builder = MessageBuilder::new_vec().start_answer(request, Rcode::NOERROR).ok()?;
    builder.header_mut().set_aa(true);
    Some(builder)
}

/// A reply once more, in a builder that takes a signature. Names in our data are never compressed.
pub(crate) fn again(reply: &[u8]) -> Option<domain::base::message_builder::AdditionalBuilder<Vec<u8>>> {
    let reply = Message::from_octets(reply).ok()?;
    let mut builder = MessageBuilder::new_vec();
    *builder.header_mut() = reply.header();
    let (question, answer, authority, additional) = reply.sections().ok()?;
    let mut builder = builder.question();
    for question in question {
        builder.push(question.ok()?).ok()?;
    }
    let mut builder = builder.answer();
    for record in answer {
        builder.push(record.ok()?.to_record::<UnknownRecordData<_>>().ok()??).ok()?;
    }
    let mut builder = builder.authority();
    for record in authority {
        builder.push(record.ok()?.to_record::<UnknownRecordData<_>>().ok()??).ok()?;
    }
    let mut builder = builder.additional();
    for record in additional {
        builder.push(record.ok()?.to_record::<UnknownRecordData<_>>().ok()??).ok()?;
    }
    Some(builder)
}

/// A record set with its owner.
pub(crate) type Owned = (Name<Vec<u8>>, Set);

/// What is transferred of a zone: the SOA record around everything else (RFC 5936 §2.2).
fn records(zone: &ZonePlan) -> Result<Vec<Owned>, Defect> {
    let apex = wire_name(&zone.apex)?;
    let mut all = vec![(apex.clone(), Set::soa(zone)?)];
    all.extend(contents(zone, &zone.fail_open));
    all.push((apex, Set::soa(zone)?));
    Ok(all)
}

/// Kinds of record sets that follow health.
const OF_HEALTH: [RecordKind; 3] = [RecordKind::A, RecordKind::Aaaa, RecordKind::HTTPS];

/// All record sets of a zone but its SOA; those without wire form are left out. Names in `instead` have from there what
/// follows health, also kinds that nothing in service has now.
pub(crate) fn contents(zone: &ZonePlan, instead: &RecordSets) -> Vec<Owned> {
    let none = BTreeMap::new();
    let owners: BTreeSet<&HostName> = zone.sets.keys().chain(instead.keys()).collect();
    let mut all = Vec::new();
    for owner in owners {
        let Ok(name) = wire_name(owner) else { continue };
        let sets = zone.sets.get(owner).unwrap_or(&none);
        let alias = sets.contains_key(&RecordKind::Cname) && *owner != zone.apex;
        let mut planned: BTreeMap<&RecordKind, &PlannedSet> = sets.iter().collect();
        if let Some(instead) = instead.get(owner) {
            planned.retain(|kind, _| !OF_HEALTH.contains(kind));
            planned.extend(instead);
        }
        for (kind, planned) in planned.into_iter().filter(|(kind, _)| !alias || **kind == RecordKind::Cname) {
            if let Ok(set) = Set::new(*kind, planned) {
                all.push((name.clone(), set));
            }
        }
    }
    all
}

/// Whether a question is for a transfer: the rest of the message is not looked at.
pub(crate) fn asks_for_transfer(message: &[u8]) -> bool {
    let kind = message.get(HEADER..).and_then(WireName::read).and_then(|name| {
        let at = HEADER + name.len();
        Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]))
    });
    kind.is_some_and(|kind| matches!(Rtype::from_int(kind), Rtype::AXFR | Rtype::IXFR))
}
