//! One message in: header, question, EDNS. Reads each byte at most once or twice, follows no pointer.

use domain::base::{
    Header, HeaderCounts,
    iana::{Class, Opcode, OptRcode, OptionCode, Rcode, Rtype},
    opt::{Cookie, Opt, UnknownOptData},
};
use domain::dep::octseq::Parser;

use crate::{name::WireName, region::ClientSubnet};

/// Bytes of the fixed header (RFC 1035 §4.1.1).
pub(crate) const HEADER: usize = 12;

/// A query that can be answered.
pub(crate) struct Request {
    /// Absent in a query for a cookie alone (RFC 7873 §5.4).
    pub(crate) question: Option<Question>,
    /// Present if the client speaks EDNS.
    pub(crate) edns: Option<Edns>,
}

/// What is asked.
pub(crate) struct Question {
    pub(crate) name: WireName,
    pub(crate) kind: Rtype,
    pub(crate) class: Class,
}

impl Question {
    /// Where the question ends in the message.
    pub(crate) fn end(&self) -> usize {
        HEADER + self.name.len() + 4
    }
}

/// The client's OPT record (RFC 6891 §6.1).
pub(crate) struct Edns {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    /// DO: copied into the reply (RFC 3225 §3).
    pub(crate) dnssec_ok: bool,
    /// CO: the client understands NXDOMAIN beside a compact denial (RFC 9824 §5).
    pub(crate) compact_ok: bool,
    pub(crate) wants_nsid: bool,
    pub(crate) cookie: Option<Cookie>,
    /// For whom a resolver asks.
    pub(crate) subnet: Option<ClientSubnet>,
}

/// What becomes of a message that is no query for us.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No reply: a message without a header, or a reply. Answering replies is how two servers keep each other busy
    /// for ever.
    Silently,
    /// A bare header with this code: nothing of the rest can be trusted.
    Header(OptRcode),
    /// Header and question, which ends there, with this code.
    Question(OptRcode, usize),
}

/// Reads one message.
pub(crate) fn read(message: &[u8]) -> Result<Request, Refused> {
    if message.len() < HEADER {
        return Err(Refused::Silently);
    }
    let header = Header::for_message_slice(message);
    if header.qr() {
        return Err(Refused::Silently);
    }
    if header.opcode() != Opcode::QUERY {
        return Err(Refused::Header(OptRcode::NOTIMP));
    }
    let malformed = Refused::Header(Rcode::FORMERR.into());
    let counts = HeaderCounts::for_message_slice(message);
    let question = match counts.qdcount() {
        0 => None,
        1 => Some(question(&message[HEADER..]).ok_or(malformed)?),
        // RFC 9619 §4.
        _ => return Err(malformed),
    };
    let end = question.as_ref().map_or(HEADER, Question::end);
    let malformed = match question {
        Some(_) => Refused::Question(OptRcode::FORMERR, end),
        None => Refused::Header(OptRcode::FORMERR),
    };
    if counts.ancount() != 0 || counts.nscount() != 0 {
        return Err(malformed);
    }
    let Ok(edns) = additional(&message[end..], counts.arcount()) else { return Err(malformed) };
    if question.is_none() && edns.as_ref().is_none_or(|edns| edns.cookie.is_none()) {
        return Err(malformed);
    }
    Ok(Request { question, edns })
}

fn question(bytes: &[u8]) -> Option<Question> {
    let name = WireName::read(bytes)?;
    let rest = &bytes[name.len()..];
    Some(Question { kind: u16_at(rest, 0)?.into(), class: u16_at(rest, 2)?.into(), name })
}

struct Malformed;

/// The OPT record among the additional records, which must fill the message exactly. Others (TSIG, SIG(0)) are
/// passed over: whoever sent them sees that the reply is not signed.
fn additional(mut bytes: &[u8], count: u16) -> Result<Option<Edns>, Malformed> {
    let mut found = None;
    for _ in 0..count {
        let name = skip_name(bytes).ok_or(Malformed)?;
        let fixed = bytes.get(name..name + 10).ok_or(Malformed)?;
        let length = usize::from(u16_at(fixed, 8).ok_or(Malformed)?);
        let data = bytes.get(name + 10..name + 10 + length).ok_or(Malformed)?;
        if u16_at(fixed, 0) == Some(Rtype::OPT.to_int()) {
            // RFC 6891 §6.1.1: at most one, owned by the root.
            if found.is_some() || name != 1 {
                return Err(Malformed);
            }
            found = Some(edns(fixed, data)?);
        }
        bytes = &bytes[name + 10 + length..];
    }
    if bytes.is_empty() { Ok(found) } else { Err(Malformed) }
}

fn edns(fixed: &[u8], data: &[u8]) -> Result<Edns, Malformed> {
    let mut edns = Edns {
        payload: u16_at(fixed, 2).ok_or(Malformed)?,
        version: fixed[5],
        dnssec_ok: fixed[6] & 0x80 != 0,
        compact_ok: fixed[6] & 0x40 != 0,
        wants_nsid: false,
        cookie: None,
        subnet: None,
    };
    if edns.version != 0 {
        // What the options of another version mean is not known; it is refused anyway.
        return Ok(edns);
    }
    let options = Opt::from_slice(data).map_err(|_| Malformed)?;
    for option in options.iter::<UnknownOptData<_>>() {
        let option = option.map_err(|_| Malformed)?;
        match option.code() {
            OptionCode::NSID => edns.wants_nsid = true,
            OptionCode::COOKIE if edns.cookie.is_none() => {
                edns.cookie = Some(cookie(option.as_slice())?);
            }
            OptionCode::CLIENT_SUBNET if edns.subnet.is_none() => {
                edns.subnet = Some(ClientSubnet::read(option.as_slice()).ok_or(Malformed)?);
            }
            _ => {}
        }
    }
    Ok(edns)
}

/// RFC 7873 §5.2.2: 8 bytes, or 16 to 40.
fn cookie(data: &[u8]) -> Result<Cookie, Malformed> {
    if data.len() != 8 && !(16..=40).contains(&data.len()) {
        return Err(Malformed);
    }
    Cookie::parse(&mut Parser::from_ref(data)).map_err(|_| Malformed)
}

/// Bytes that a name takes here, without following pointers.
fn skip_name(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            label @ 1..=63 => at += 1 + usize::from(label),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            _ => return None,
        }
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}
