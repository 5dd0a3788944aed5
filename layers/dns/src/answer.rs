//! From the question to the reply: RFC 1034 §4.3.2 with its corrections (RFC 2181, 2308, 4592, 6604, 6891, 8482,
//! 9619). Pure: everything that decides is in the arguments.

use std::{net::IpAddr, ptr};

use domain::base::{
    Serial,
    iana::{Class, OptRcode, Rcode, Rtype},
    opt::Cookie,
};

use crate::{
    CookieSecret,
    name::WireName,
    record::{Set, Target},
    reply::{self, Full, Reply, ReplyEdns, Section, TCP_PAYLOAD, UDP_PAYLOAD, UDP_PLAIN},
    request::{self, Edns, HEADER, Question, Refused, Request},
    store::{Cut, Entry, Found, Store},
};

/// Most aliases followed for one answer. Longer chains are cut there; the resolver asks on.
const ALIASES_MAX: usize = 8;
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
        Some(question) => resolve_or_refuse(store, context, question, &mut reply).into(),
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
    ReplyEdns { dnssec_ok: edns.dnssec_ok, nsid, cookie }
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
    match resolve(store, question, reply) {
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

/// Why an answer is not completed.
enum Stop {
    /// It does not fit.
    Full,
    /// A record set has no wire form.
    Broken,
}

impl From<Full> for Stop {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

fn push(reply: &mut Reply<'_>, section: Section, owner: usize, set: &Set) -> Result<(), Stop> {
    if set.is_broken() {
        return Err(Stop::Broken);
    }
    Ok(reply.push(section, owner, set)?)
}

/// The name that is looked up now, and where it stands in the reply.
struct Wanted {
    name: WireName,
    at: usize,
}

impl Wanted {
    /// Where the last `length` bytes of the name stand.
    fn suffix_at(&self, length: usize) -> usize {
        self.at + self.name.len() - length
    }
}

/// Follows aliases within the zone until there is data, or none.
fn resolve(store: &Store, question: &Question, reply: &mut Reply<'_>) -> Result<Rcode, Stop> {
    let mut wanted = Wanted { name: question.name, at: HEADER };
    let mut zone_of_question = None;
    let mut aliases: Vec<&Entry> = Vec::new();
    loop {
        let found = store.find(&wanted.name);
        let zone = match found {
            Found::Foreign if zone_of_question.is_none() => return Ok(Rcode::REFUSED),
            // The alias leads out of the zone: the resolver goes on from there.
            Found::Foreign => return Ok(Rcode::NOERROR),
            Found::Delegated(zone, _) | Found::Entry(zone, _) | Found::Missing(zone) => zone,
        };
        if *zone_of_question.get_or_insert(zone) != zone {
            return Ok(Rcode::NOERROR);
        }
        let entry = match found {
            Found::Delegated(_, cut) => return refer(store, &wanted, zone, cut, question.kind, reply),
            Found::Entry(_, entry) => entry,
            Found::Missing(_) | Found::Foreign => {
                reply.authoritative = true;
                deny(store, &wanted, zone, reply)?;
                return Ok(Rcode::NXDOMAIN);
            }
        };
        reply.authoritative = true;
        let Some(set) = choose(store, zone, &wanted.name, entry, question.kind) else {
            deny(store, &wanted, zone, reply)?;
            return Ok(Rcode::NOERROR);
        };
        let is_alias = set.kind == Rtype::CNAME;
        if is_alias && aliases.iter().any(|alias| ptr::eq(*alias, entry)) {
            // The circle is left where it closes.
            return Ok(Rcode::NOERROR);
        }
        let at = reply.position();
        push(reply, Section::Answer, wanted.at, set)?;
        if !is_alias {
            for target in &set.targets {
                add_addresses(store, at, target, reply);
            }
            return Ok(Rcode::NOERROR);
        }
        let next = set.targets.first().and_then(|target| Some((target, WireName::read(&target.name)?)));
        let asked_for = matches!(question.kind, Rtype::CNAME | Rtype::ANY);
        match next {
            Some((target, name)) if !asked_for && aliases.len() < ALIASES_MAX => {
                aliases.push(entry);
                wanted = Wanted { name, at: at + usize::from(target.at) };
            }
            _ => return Ok(Rcode::NOERROR),
        }
    }
}

/// The set that answers a question about a name.
fn choose<'a>(
    store: &'a Store,
    zone: usize,
    name: &WireName,
    entry: &'a Entry,
    kind: Rtype,
) -> Option<&'a Set> {
    let zone = store.zone(zone);
    let at_apex = name.len() == zone.apex_len;
    match kind {
        Rtype::SOA if at_apex => Some(&zone.soa),
        // RFC 8482 §4.1: any one set will do.
        Rtype::ANY => entry.sets.first().or(at_apex.then_some(&zone.soa)),
        _ => entry.set(kind).or_else(|| entry.set(Rtype::CNAME)),
    }
}

/// Says that there is no such name or no such data (RFC 2308 §2).
fn deny(store: &Store, wanted: &Wanted, zone: usize, reply: &mut Reply<'_>) -> Result<(), Stop> {
    let zone = store.zone(zone);
    push(reply, Section::Authority, wanted.suffix_at(zone.apex_len), &zone.negative_soa)
}

/// Sends the client to the servers of a delegated zone.
fn refer(
    store: &Store,
    wanted: &Wanted,
    zone: usize,
    cut: &Cut,
    kind: Rtype,
    reply: &mut Reply<'_>,
) -> Result<Rcode, Stop> {
    if kind == Rtype::DS && wanted.name.len() == cut.owner.len() {
        // DS lives on this side of the cut (RFC 4035 §3.1.4.1), and there is none.
        reply.authoritative = true;
        deny(store, wanted, zone, reply)?;
        return Ok(Rcode::NOERROR);
    }
    let at = reply.position();
    push(reply, Section::Authority, wanted.suffix_at(cut.owner.len()), &cut.servers)?;
    let mut whole = true;
    for target in &cut.servers.targets {
        let needed = is_within(&target.name, &cut.owner);
        whole &= add_addresses(store, at, target, reply) || !needed;
    }
    // RFC 9471 §3.1: without the addresses of servers within the delegated zone the referral leads nowhere.
    if whole { Ok(Rcode::NOERROR) } else { Err(Stop::Full) }
}

fn is_within(name: &[u8], zone: &[u8]) -> bool {
    WireName::read(name).is_some_and(|name| (0..=name.labels()).any(|skipped| name.suffix(skipped) == zone))
}

/// Adds the addresses that we know of a name within the set that stands at `set_at`. Returns whether all fitted.
fn add_addresses(store: &Store, set_at: usize, target: &Target, reply: &mut Reply<'_>) -> bool {
    let Some(entry) = store.entry(&target.name) else { return true };
    let mut fitted = true;
    for set in [Rtype::A, Rtype::AAAA].into_iter().filter_map(|kind| entry.set(kind)) {
        fitted &=
            set.is_broken() || reply.push(Section::Additional, set_at + usize::from(target.at), set).is_ok();
    }
    fitted
}
