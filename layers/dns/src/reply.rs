//! One message out: the client's header and question, then record sets copied from the store.

use domain::base::{
    Header, HeaderCounts,
    iana::{OptRcode, OptionCode, Rtype},
    opt::{ComposeOptData, Cookie},
};

use crate::{record::Set, region::ClientSubnet, request::HEADER};

/// Payload that is offered and used at most (the size agreed on for DNS flag day 2020): fits into the smallest
/// common path without fragments.
pub(crate) const UDP_PAYLOAD: u16 = 1232;
/// What a client without EDNS takes (RFC 1035 §2.3.4).
pub(crate) const UDP_PLAIN: u16 = 512;
/// What fits behind the length prefix of TCP.
pub(crate) const TCP_PAYLOAD: u16 = u16::MAX;

/// Bytes of an OPT record without options.
const OPT_FIXED: usize = 11;
/// Bytes of an option without data.
const OPTION_FIXED: usize = 4;

/// Sections in which record sets stand.
#[derive(Clone, Copy)]
pub(crate) enum Section {
    Answer = 0,
    Authority = 1,
    Additional = 2,
}

/// The record set does not fit.
#[derive(Debug)]
pub(crate) struct Full;

/// OPT of the reply.
pub(crate) struct ReplyEdns<'a> {
    pub(crate) dnssec_ok: bool,
    pub(crate) nsid: Option<&'a [u8]>,
    pub(crate) cookie: Option<Cookie>,
    /// For whom was asked, and for how many bits of that the reply holds.
    pub(crate) subnet: Option<(ClientSubnet, u8)>,
}

impl ReplyEdns<'_> {
    fn len(&self) -> usize {
        let nsid = self.nsid.map_or(0, |nsid| OPTION_FIXED + nsid.len());
        let cookie = self.cookie.as_ref().map_or(0, |c| OPTION_FIXED + usize::from(c.compose_len()));
        let subnet = self.subnet.map_or(0, |(subnet, _)| OPTION_FIXED + subnet.len());
        OPT_FIXED + nsid + cookie + subnet
    }

    /// Appends the record; `high` are the upper bits of the response code.
    fn write(&self, high: u8, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(0);
        out.extend_from_slice(&Rtype::OPT.to_int().to_be_bytes());
        out.extend_from_slice(&UDP_PAYLOAD.to_be_bytes());
        out.extend_from_slice(&[high, 0, if self.dnssec_ok { 0x80 } else { 0 }, 0, 0, 0]);
        if let Some(nsid) = self.nsid {
            out.extend_from_slice(&OptionCode::NSID.to_int().to_be_bytes());
            out.extend_from_slice(&length(nsid.len()));
            out.extend_from_slice(nsid);
        }
        if let Some(cookie) = &self.cookie {
            out.extend_from_slice(&OptionCode::COOKIE.to_int().to_be_bytes());
            out.extend_from_slice(&cookie.compose_len().to_be_bytes());
            let Ok(()) = cookie.compose_option(out);
        }
        if let Some((subnet, scope)) = self.subnet {
            out.extend_from_slice(&OptionCode::CLIENT_SUBNET.to_int().to_be_bytes());
            out.extend_from_slice(&length(subnet.len()));
            subnet.write(scope, out);
        }
        let options = length(out.len() - start - OPT_FIXED);
        out[start + OPT_FIXED - 2..start + OPT_FIXED].copy_from_slice(&options);
    }
}

fn length(bytes: usize) -> [u8; 2] {
    // Options are at most 64 + 40 + 20 bytes, so nothing is lost.
    (bytes as u16).to_be_bytes()
}

/// Builds a reply in a buffer that is used again and again.
pub(crate) struct Reply<'a> {
    out: &'a mut Vec<u8>,
    question_end: usize,
    limit: usize,
    edns: Option<ReplyEdns<'a>>,
    counts: [u16; 3],
    /// AA: whether the owner of the question is ours.
    pub(crate) authoritative: bool,
    truncated: bool,
}

impl<'a> Reply<'a> {
    /// Begins with header and question of the `query`, whose question ends at `question_end` (the header's end if
    /// there is none). The reply will have at most `limit` bytes, but always room for question and OPT.
    pub(crate) fn new(
        out: &'a mut Vec<u8>,
        query: &[u8],
        question_end: usize,
        limit: u16,
        edns: Option<ReplyEdns<'a>>,
    ) -> Self {
        out.clear();
        out.extend_from_slice(&query[..question_end]);
        let reserved = edns.as_ref().map_or(0, ReplyEdns::len);
        let limit = usize::from(limit).saturating_sub(reserved);
        Self { out, question_end, limit, edns, counts: [0; 3], authoritative: false, truncated: false }
    }

    /// Where the next record will stand.
    pub(crate) fn position(&self) -> usize {
        self.out.len()
    }

    /// Whether so many bytes fit.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.out.len() + bytes <= self.limit
    }

    /// Appends a record set owned by the name that stands at `owner` in this message.
    pub(crate) fn push(&mut self, section: Section, owner: usize, set: &Set) -> Result<(), Full> {
        let start = self.out.len();
        let pointer = pointer_to(owner).ok_or(Full)?;
        let count = self.counts[section as usize].checked_add(set.count).ok_or(Full)?;
        if !self.has_room(set.wire.len()) {
            return Err(Full);
        }
        self.out.extend_from_slice(&set.wire);
        self.counts[section as usize] = count;
        if owner != HEADER {
            // Stored records are owned by the question; these are not.
            let mut at = start;
            while at < self.out.len() {
                self.out[at..at + 2].copy_from_slice(&pointer);
                at += 12 + usize::from(u16::from_be_bytes([self.out[at + 10], self.out[at + 11]]));
            }
        }
        Ok(())
    }

    /// Notes that the reply holds for so many bits of the network for which was asked (RFC 7871 §7.2.1).
    pub(crate) fn set_scope(&mut self, scope: u8) {
        if let Some((_, known)) = self.edns.as_mut().and_then(|edns| edns.subnet.as_mut()) {
            *known = scope;
        }
    }

    /// Whether the client is asked to come by TCP.
    pub(crate) fn is_truncated(&self) -> bool {
        self.truncated
    }

    /// Takes back all records.
    pub(crate) fn clear(&mut self) {
        self.out.truncate(self.question_end);
        self.counts = [0; 3];
    }

    /// Takes back all records and asks the client to come by TCP. A part of an answer is never sent: nobody may use
    /// it (RFC 2181 §9).
    pub(crate) fn truncate(&mut self) {
        self.clear();
        self.truncated = true;
    }

    /// Writes the OPT record and the header.
    pub(crate) fn finish(mut self, rcode: OptRcode) {
        if let Some(edns) = &self.edns {
            edns.write((rcode.to_int() >> 4) as u8, self.out);
            self.counts[Section::Additional as usize] += 1;
        }
        let questions = u16::from(self.question_end > HEADER);
        let asked = *Header::for_message_slice(self.out);
        let mut header = Header::new();
        header.set_id(asked.id());
        header.set_opcode(asked.opcode());
        header.set_qr(true);
        header.set_rd(asked.rd());
        header.set_aa(self.authoritative);
        header.set_tc(self.truncated);
        header.set_rcode(rcode.rcode());
        *Header::for_message_slice_mut(self.out) = header;
        let counts = HeaderCounts::for_message_slice_mut(self.out);
        counts.set_qdcount(questions);
        counts.set_ancount(self.counts[Section::Answer as usize]);
        counts.set_nscount(self.counts[Section::Authority as usize]);
        counts.set_arcount(self.counts[Section::Additional as usize]);
    }
}

/// Compression pointer (RFC 1035 §4.1.4), which reaches 16 KiB far.
fn pointer_to(position: usize) -> Option<[u8; 2]> {
    let position = u16::try_from(position).ok().filter(|position| *position <= 0x3fff)?;
    Some((0xc000 | position).to_be_bytes())
}

/// A bare header, for messages of which nothing else can be trusted.
pub(crate) fn bare(out: &mut Vec<u8>, query: &[u8], rcode: OptRcode) {
    out.clear();
    out.extend_from_slice(&query[..HEADER]);
    let asked = *Header::for_message_slice(query);
    let mut header = Header::new();
    header.set_id(asked.id());
    header.set_opcode(asked.opcode());
    header.set_qr(true);
    header.set_rcode(rcode.rcode());
    *Header::for_message_slice_mut(out) = header;
    HeaderCounts::for_message_slice_mut(out).set(HeaderCounts::new());
}

/// Cuts a finished reply down to header and question with TC set: the answer beyond the rate limit.
pub(crate) fn slip(reply: &mut Vec<u8>, question_end: usize) {
    reply.truncate(question_end);
    let mut counts = HeaderCounts::new();
    counts.set_qdcount(u16::from(question_end > HEADER));
    HeaderCounts::for_message_slice_mut(reply).set(counts);
    let header = Header::for_message_slice_mut(reply);
    header.set_tc(true);
    header.set_aa(false);
    header.set_rcode(domain::base::iana::Rcode::NOERROR);
}
