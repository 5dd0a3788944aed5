//! What a node would answer, for operators: the same way as for everybody, without the network in between.

use std::net::IpAddr;

use domain::base::{Message, MessageBuilder, Name, Rtype, iana::Class};
use pangolin_core::record::RecordKind;

use crate::{DnsError, DnsServer, zonefile::record_lines};

/// A reply in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Response code: `NOERROR`, `NXDOMAIN` …
    pub rcode: String,
    /// AA: the zone is ours.
    pub authoritative: bool,
    /// Answer, authority and additional section, as lines of a zone file.
    pub sections: [Vec<String>; 3],
}

impl DnsServer {
    /// What this node answers `client` to a question; `kind` none = any one record set.
    ///
    /// # Errors
    /// The name is none.
    pub fn inspect(&self, name: &str, kind: Option<RecordKind>, client: IpAddr) -> Result<Shown, DnsError> {
        let bad = |what: String| DnsError::ZoneFile { what };
        let owner: Name<Vec<u8>> =
            name.parse().map_err(|error| bad(format!("{name:?} is no name: {error}")))?;
        let kind = kind.map_or(Rtype::ANY, |kind| kind.number().into());
        let mut builder = MessageBuilder::new_vec().question();
        builder.push((owner, kind, Class::IN)).map_err(|_| bad(format!("{name:?} is too long")))?;
        let reply = self.ask_itself(&builder.finish(), client);
        let reply = Message::from_octets(reply).map_err(|_| bad("there is no reply".to_owned()))?;
        Ok(show(&reply))
    }
}

pub(crate) fn show(reply: &Message<Vec<u8>>) -> Shown {
    let header = reply.header();
    Shown {
        rcode: header.rcode().to_string(),
        authoritative: header.aa(),
        sections: [0, 1, 2].map(|section| record_lines(reply, section)),
    }
}
