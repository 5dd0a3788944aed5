//! From a message to the reply (RFC 6891, 7871, 7873, 8482, 9018, 9619). Pure: everything that decides is in the
//! arguments.

use std::{net::IpAddr, sync::Arc};

use domain::base::{
    Serial,
    iana::{Class, OptRcode, Rcode, Rtype},
    opt::Cookie,
};

use crate::{
    CookieSecret, GeoDatabase,
    reply::{self, Reply, ReplyEdns, TCP_PAYLOAD, UDP_PAYLOAD, UDP_PLAIN},
    request::{self, Edns, HEADER, Question, Refused, Request},
    resolve::{Client, Stop, resolve},
    store::{Found, Store},
};

/// How long a server cookie is taken, in seconds (RFC 9018 §4.3).
const COOKIE_AGE_MAX: u32 = 3600;
/// How far ahead another node's clock may be, in seconds (RFC 9018 §4.3).
const COOKIE_AHEAD_MAX: u32 = 300;
/// First label of the names that certification authorities look at (RFC 8555 §8.4).
const ACME_LABEL: &[u8] = b"_acme-challenge";

/// How a query came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// In a datagram: the reply is small, or truncated.
    Udp,
    /// In a stream: the reply is whole.
    Tcp,
}

/// What is the same for every query.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// NSID, at most 64 bytes; empty = none.
    pub nsid: Vec<u8>,
    /// The first makes new cookies, all are accepted; none = no cookies.
    pub cookie_secrets: Vec<CookieSecret>,
    /// Tells where clients are that no rule speaks of.
    pub regions: Option<Arc<GeoDatabase>>,
}

/// What an answer depends on beside the question and the store.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// What is the same for every query.
    pub policy: &'a Policy,
    /// Who asks.
    pub client: IpAddr,
    /// How.
    pub transport: Transport,
    /// Seconds since 1970, for cookies.
    pub now: u32,
    /// Whether the node hears from the leader. Without it, `_acme-challenge` names are answered with SERVFAIL, so
    /// that a validator asks another server instead of believing stale data.
    pub leader_contact: bool,
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// No reply is due.
    Dropped,
    /// The reply stands in the buffer.
    Answered(Answered),
}

/// What was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The response code with its EDNS bits.
    pub rcode: OptRcode,
    /// TC: the client must come by TCP.
    pub truncated: bool,
    /// The client's address is proven by a cookie.
    pub cookie_valid: bool,
    /// Where the question ends in the reply.
    pub question_end: usize,
}

/// Answers one message. The reply, if one is due, replaces what is in `reply`. Never panics; the reply to a message
/// that is not a well-formed query is not longer than its header and question.
pub fn answer(store: &Store, context: &Context<'_>, message: &[u8], reply: &mut Vec<u8>) -> Outcome {
    match request::read(message) {
        Ok(request) => Outcome::Answered(answer_request(store, context, message, &request, reply)),
        Err(Refused::Silently) => Outcome::Dropped,
        Err(Refused::Header(rcode)) => {
            reply::bare(reply, message, rcode);
            Outcome::Answered(Answered::refusal(rcode, HEADER))
        }
        Err(Refused::Question(rcode, question_end)) => {
            Reply::new(reply, message, question_end, UDP_PLAIN, None).finish(rcode);
            Outcome::Answered(Answered::refusal(rcode, question_end))
        }
    }
}

impl Answered {
    fn refusal(rcode: OptRcode, question_end: usize) -> Self {
        Self { rcode, truncated: false, cookie_valid: false, question_end }
    }
}

fn answer_request(
    store: &Store,
    context: &Context<'_>,
    message: &[u8],
    request: &Request,
    out: &mut Vec<u8>,
) -> Answered {
    let edns = request.edns.as_ref();
    let supported = edns.is_none_or(|edns| edns.version == 0);
    let limit = match (context.transport, edns) {
        (Transport::Tcp, _) => TCP_PAYLOAD,
        (Transport::Udp, None) => UDP_PLAIN,
        (Transport::Udp, Some(edns)) => edns.payload.clamp(UDP_PLAIN, UDP_PAYLOAD),
    };
    let question_end = request.question.as_ref().map_or(HEADER, Question::end);
    let reply_edns = edns.map(|edns| reply_edns(context, edns));
    let mut reply = Reply::new(out, message, question_end, limit, reply_edns);
    let rcode = match &request.question {
        _ if !supported => OptRcode::BADVERS,
        None => OptRcode::NOERROR,
        Some(question) => resolve_or_refuse(store, context, edns, question, &mut reply).into(),
    };
    let truncated = reply.is_truncated();
    reply.finish(rcode);
    let cookie_valid = edns.and_then(|edns| edns.cookie.as_ref()).is_some_and(|c| is_valid(context, c));
    Answered { rcode, truncated, cookie_valid, question_end }
}

fn reply_edns<'a>(context: &Context<'a>, edns: &Edns) -> ReplyEdns<'a> {
    let policy = context.policy;
    let nsid = (edns.wants_nsid && !policy.nsid.is_empty()).then_some(policy.nsid.as_slice());
    let cookie = match (&edns.cookie, policy.cookie_secrets.first()) {
        (Some(cookie), Some(secret)) => {
            Some(cookie.create_response(Serial(context.now), context.client, &secret.0))
        }
        _ => None,
    };
    ReplyEdns { dnssec_ok: edns.dnssec_ok, nsid, cookie, subnet: edns.subnet.map(|subnet| (subnet, 0)) }
}

fn is_valid(context: &Context<'_>, cookie: &Cookie) -> bool {
    // RFC 9018 §4.3: serial number arithmetic, so that it goes on after 2106.
    let fresh = |made: Serial| {
        let age = context.now.wrapping_sub(made.into_int());
        age <= COOKIE_AGE_MAX || age.wrapping_neg() <= COOKIE_AHEAD_MAX
    };
    cookie.server().is_some()
        && context
            .policy
            .cookie_secrets
            .iter()
            .any(|secret| cookie.check_server_hash(context.client, &secret.0, fresh))
}

/// Answers the question, or says why not.
fn resolve_or_refuse(
    store: &Store,
    context: &Context<'_>,
    edns: Option<&Edns>,
    question: &Question,
    reply: &mut Reply<'_>,
) -> Rcode {
    if store.revision.is_none() {
        return Rcode::SERVFAIL;
    }
    if let Some(refusal) = refusal(question) {
        return refusal;
    }
    if !context.leader_contact && question.name.first_label() == ACME_LABEL {
        let ours = !matches!(store.find(&question.name), Found::Foreign);
        return if ours { Rcode::SERVFAIL } else { Rcode::REFUSED };
    }
    let client = Client {
        // RFC 7871 §7.1.2: a resolver that tells nothing of its client is asked for by itself.
        address: edns.and_then(|e| e.subnet).filter(|s| s.source > 0).map_or(context.client, |s| s.address),
        dnssec_ok: edns.is_some_and(|edns| edns.dnssec_ok),
        compact_ok: edns.is_some_and(|edns| edns.compact_ok),
        regions: context.policy.regions.as_deref(),
        now: context.now,
    };
    match resolve(store, &client, question, reply) {
        Ok(rcode) => rcode,
        Err(Stop::Full) if context.transport == Transport::Udp => {
            reply.truncate();
            Rcode::NOERROR
        }
        Err(_) => {
            reply.clear();
            reply.authoritative = false;
            Rcode::SERVFAIL
        }
    }
}

/// Questions that are not about data.
fn refusal(question: &Question) -> Option<Rcode> {
    if question.class != Class::IN {
        return Some(Rcode::REFUSED);
    }
    match question.kind {
        // Pseudo types: there is no data of theirs to ask for (RFC 6891 §6.1.1, RFC 9824 §3.5).
        Rtype::OPT | Rtype::NXNAME => Some(Rcode::FORMERR),
        // Transfers are for known secondaries.
        Rtype::AXFR | Rtype::IXFR => Some(Rcode::REFUSED),
        Rtype::TKEY | Rtype::TSIG | Rtype::MAILA | Rtype::MAILB => Some(Rcode::NOTIMP),
        _ => None,
    }
}
