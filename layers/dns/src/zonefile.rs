//! Zone files in and out (RFC 1035 §5), and single values as people write them.

use std::fmt::Write as _;

use bytes::Bytes;
use domain::{
    base::{
        Message, Name, ParsedRecord, Record, Rtype, Ttl,
        iana::Class,
        name::ToName,
        rdata::{ComposeRecordData, UnknownRecordData},
        zonefile_fmt::{DisplayKind, ZonefileFmt as _},
    },
    rdata::{AllRecordData, ZoneRecordData},
    zonefile::inplace::{Entry, Zonefile},
};
use pangolin_core::{
    name::HostName,
    plan::ZonePlan,
    record::{RecordData, RecordKind, RecordSet},
};

use crate::{
    DnsError,
    record::{Set, wire_name},
    sign::planned_key_sets,
    transfer::contents,
};

/// What a zone file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Record sets, in the order of the file.
    pub sets: Vec<(HostName, RecordSet)>,
    /// What is left out, in words.
    pub skipped: Vec<String>,
}

/// Reads a zone file. What the cluster makes by itself (SOA, NS of the apex, what belongs to signing) is left out.
///
/// # Errors
/// The text is no zone file, has a name outside the zone, or one that cannot be published.
pub fn read_zone(zone: &HostName, text: &str) -> Result<Imported, DnsError> {
    let mut imported = Imported::default();
    read(zone, text, |owner, ttl, data| {
        let kind = data.kind();
        if owner == *zone && kind == RecordKind::Ns {
            imported.skipped.push(format!("NS of {owner}: the nodes are the zone's servers"));
        } else if !kind.is_for_operators() {
            imported.skipped.push(format!("{kind} of {owner}: made by the cluster, or not served"));
        } else if let Some((_, set)) = imported
            .sets
            .iter_mut()
            .rev()
            .find(|(name, set)| *name == owner && set.data.first().map(RecordData::kind) == Some(kind))
        {
            set.data.push(data);
        } else {
            imported.sets.push((owner, RecordSet { ttl, data: vec![data] }));
        }
    })?;
    Ok(imported)
}

/// Reads one value as it would stand in a zone file behind its type; names in it are complete, or below `zone`.
///
/// # Errors
/// The text is no value of this type.
pub fn read_value(zone: &HostName, kind: RecordKind, value: &str) -> Result<RecordData, DnsError> {
    let refuse = |what: String| DnsError::ZoneFile { what };
    if value.contains(['\n', '\r']) {
        return Err(refuse("a value stands on one line".to_owned()));
    }
    let mut values = Vec::new();
    read(zone, &format!("@ 0 IN {kind} {value}\n"), |_, _, data| values.push(data))
        .map_err(|error| refuse(format!("{value:?} is no value of a {kind} record: {error}")))?;
    match (values.pop(), values.is_empty()) {
        (Some(data), true) if data.kind() == kind => Ok(data),
        _ => Err(refuse(format!("{value:?} is no value of a {kind} record"))),
    }
}

fn read(
    zone: &HostName,
    text: &str,
    mut each: impl FnMut(HostName, u32, RecordData),
) -> Result<(), DnsError> {
    let refuse = |what: String| DnsError::ZoneFile { what };
    let origin = wire_name(zone).map_err(|defect| refuse(defect.to_string()))?;
    let mut file = Zonefile::from(text);
    file.set_origin(
        Name::from_octets(Bytes::copy_from_slice(origin.as_slice())).map_err(|e| refuse(e.to_string()))?,
    );
    file.set_default_class(Class::IN);
    while let Some(entry) = file.next_entry().map_err(|error| refuse(error.to_string()))? {
        let record = match entry {
            Entry::Record(record) => record,
            Entry::Include { .. } => {
                return Err(refuse("it includes another file: put that one in its place".to_owned()));
            }
        };
        let owner = host(record.owner()).map_err(&refuse)?;
        if !owner.is_within(zone) {
            return Err(refuse(format!("{owner} does not lie in the zone {zone}")));
        }
        let data = value(record.data()).map_err(|why| refuse(format!("at {owner}: {why}")))?;
        each(owner, record.ttl().as_secs(), data);
    }
    Ok(())
}

fn host(name: &impl ToName) -> Result<HostName, String> {
    let text = name.to_vec().to_string();
    text.parse().map_err(|error| format!("{error}"))
}

fn is_root(name: &impl ToName) -> bool {
    name.compose_len() == 1
}

/// A value of a zone file in the state's form.
fn value<O, N>(data: &ZoneRecordData<O, N>) -> Result<RecordData, String>
where
    O: AsRef<[u8]>,
    N: ToName,
    ZoneRecordData<O, N>: ComposeRecordData,
    domain::rdata::Txt<O>: Clone,
{
    Ok(match data {
        ZoneRecordData::A(data) => RecordData::A(data.addr()),
        ZoneRecordData::Aaaa(data) => RecordData::Aaaa(data.addr()),
        ZoneRecordData::Cname(data) => RecordData::Cname(host(data.cname())?),
        ZoneRecordData::Ns(data) => RecordData::Ns(host(data.nsdname())?),
        ZoneRecordData::Mx(data) if is_root(data.exchange()) => match data.preference() {
            0 => RecordData::NullMx,
            other => {
                return Err(format!(
                    "an MX record without a host has the preference 0, not {other} (RFC 7505 §3)"
                ));
            }
        },
        ZoneRecordData::Srv(data) if is_root(data.target()) => {
            RecordData::NullSrv(data.priority(), data.weight(), data.port())
        }
        ZoneRecordData::Mx(data) => RecordData::Mx(data.preference(), host(data.exchange())?),
        ZoneRecordData::Srv(data) => {
            RecordData::Srv(data.priority(), data.weight(), data.port(), host(data.target())?)
        }
        other => {
            let mut wire = Vec::new();
            let Ok(()) = other.compose_canonical_rdata(&mut wire);
            match RecordKind::from_number(domain::base::RecordData::rtype(other).to_int()) {
                // Where a text is cut into strings means nothing to those who read it.
                RecordKind::Txt => RecordData::Txt(strings(&wire).ok_or("a text without end")?.concat()),
                RecordKind::Caa => caa(&wire).ok_or("a CAA value without tag")?,
                kind => RecordData::Other(kind.number(), wire),
            }
        }
    })
}

/// The character strings of a text (RFC 1035 §3.3.14).
fn strings(mut wire: &[u8]) -> Option<Vec<&[u8]>> {
    let mut all = Vec::new();
    while let Some((length, rest)) = wire.split_first() {
        let (string, rest) = rest.split_at_checked(usize::from(*length))?;
        all.push(string);
        wire = rest;
    }
    Some(all)
}

/// RFC 8659 §4.1.1.
fn caa(wire: &[u8]) -> Option<RecordData> {
    let (flags, rest) = wire.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (tag, value) = rest.split_at_checked(usize::from(*length))?;
    Some(RecordData::Caa(*flags, std::str::from_utf8(tag).ok()?.to_owned(), value.to_vec()))
}

/// A zone as it is served to clients of whom nothing is known, in the form of a zone file; of what belongs to signing, the
/// keys: signatures are made as they are answered.
///
/// # Errors
/// The zone's SOA record has no DNS form.
pub fn print_zone(zone: &ZonePlan) -> Result<String, DnsError> {
    let refuse = |why: String| DnsError::Zone { apex: zone.apex.clone(), why };
    let apex = wire_name(&zone.apex).map_err(|defect| refuse(defect.to_string()))?;
    let soa = Set::soa(zone).map_err(|defect| refuse(defect.to_string()))?;
    let keys = planned_key_sets(apex.as_slice(), zone).into_iter().flatten();
    let keys: Vec<_> = keys.map(|set| (apex.clone(), set)).collect();
    let made = std::iter::once((apex, soa)).chain(keys);
    let mut text = String::new();
    for (owner, set) in made.chain(contents(zone, &std::collections::BTreeMap::new())) {
        for data in set.data() {
            // Writing to a string does not fail.
            let _ = writeln!(text, "{}", print_record(&owner, set.kind, set.ttl(), data));
        }
    }
    Ok(text)
}

/// A record as a line of a zone file.
fn print_record(owner: &Name<Vec<u8>>, kind: Rtype, ttl: u32, data: &[u8]) -> String {
    let Ok(data) = UnknownRecordData::from_octets(kind, data) else { return String::new() };
    let record = Record::new(owner, Class::IN, Ttl::from_secs(ttl), data);
    // A message of one record is the way to the data's own form.
    let mut message = domain::base::MessageBuilder::new_vec().answer();
    let parsed = message.push(record).ok().map(|()| message.into_message());
    let line = parsed.and_then(|message| record_lines(&message, 0).pop());
    line.unwrap_or_default()
}

/// The records of a section (0 = answer, 1 = authority, 2 = additional) as lines of a zone file, without OPT.
pub(crate) fn record_lines(message: &Message<Vec<u8>>, section: usize) -> Vec<String> {
    let Ok((_, answer, authority, additional)) = message.sections() else { return Vec::new() };
    let records = [answer, authority, additional].into_iter().nth(section);
    let records = records.into_iter().flatten().filter_map(Result::ok);
    records.filter(|record| record.rtype() != Rtype::OPT).map(|record| record_line(&record)).collect()
}

fn record_line(record: &ParsedRecord<'_, Vec<u8>>) -> String {
    let (owner, ttl, kind) = (record.owner(), record.ttl().as_secs(), record.rtype());
    match record.to_any_record::<AllRecordData<_, _>>() {
        // Not by `Display`, which forgets the last dot of an SRV target.
        Ok(typed) => {
            let data = typed.data().display_zonefile(DisplayKind::Simple);
            format!("{} {ttl} IN {kind} {data}", owner.fmt_with_dot())
        }
        Err(_) => format!("{} {ttl} IN {kind} ; unreadable", owner.fmt_with_dot()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use pangolin_core::plan::PlannedSet;

    use super::*;

    fn host(name: &str) -> HostName {
        name.parse().expect("a host name")
    }

    const FILE: &str = r#"
$ORIGIN z.test.
$TTL 600
@ IN SOA ns.old.test. hostmaster.z.test. (
    1 7200 3600 1209600 300 )
  IN NS ns.old.test.
@ IN MX 10 Mail
  IN TXT "one" "two"
mail 60 IN A 192.0.2.1
     60 IN A 192.0.2.2
_sip._tcp IN SRV 1 2 5060 mail
_imap._tcp IN SRV 0 0 0 .
silent IN MX 0 .
sub IN NS ns.sub
ns.sub IN AAAA 2001:db8::1
@ IN CAA 0 issue "ca.test"
_443._tcp.mail IN TLSA 3 1 1 aabb
alias IN CNAME mail.z.test.
svc IN HTTPS 1 . alpn=h2
"#;

    #[test]
    fn a_zone_file_becomes_record_sets_and_what_the_cluster_makes_is_left_out() {
        let imported = read_zone(&host("z.test"), FILE).expect("a zone");
        let lines: Vec<String> =
            imported.sets.iter().map(|(name, set)| format!("{name} {} {:?}", set.ttl, set.data)).collect();
        assert_eq!(
            lines,
            [
                "z.test 600 [Mx(10, \"mail.z.test\")]",
                "z.test 600 [Txt([111, 110, 101, 116, 119, 111])]",
                "mail.z.test 60 [A(192.0.2.1), A(192.0.2.2)]",
                "_sip._tcp.z.test 600 [Srv(1, 2, 5060, \"mail.z.test\")]",
                "_imap._tcp.z.test 600 [NullSrv(0, 0, 0)]",
                "silent.z.test 600 [NullMx]",
                "sub.z.test 600 [Ns(\"ns.sub.z.test\")]",
                "ns.sub.z.test 600 [Aaaa(2001:db8::1)]",
                "z.test 600 [Caa(0, \"issue\", [99, 97, 46, 116, 101, 115, 116])]",
                "_443._tcp.mail.z.test 600 [Other(52, [3, 1, 1, 170, 187])]",
                "alias.z.test 600 [Cname(\"mail.z.test\")]",
                "svc.z.test 600 [Other(65, [0, 1, 0, 0, 1, 0, 3, 2, 104, 50])]",
            ]
        );
        assert_eq!(imported.skipped.len(), 2, "{:?}", imported.skipped);
    }

    /// A zone without records.
    fn bare(apex: &HostName) -> ZonePlan {
        ZonePlan {
            apex: apex.clone(),
            primary: host("n1.z.test"),
            contact: host("hostmaster.z.test"),
            serial: 7,
            negative_ttl: 30,
            sets: pangolin_core::plan::RecordSets::new(),
            regional: BTreeMap::new(),
            fail_open: BTreeMap::new(),
            key: None,
            secondaries: Vec::new(),
            next_key: None,
        }
    }

    #[test]
    fn a_printed_zone_reads_as_the_same_zone() {
        let zone = host("z.test");
        let imported = read_zone(&zone, FILE).expect("a zone");
        let mut sets = pangolin_core::plan::RecordSets::new();
        for (name, set) in &imported.sets {
            let planned = PlannedSet { ttl: set.ttl, data: set.data.clone() };
            sets.entry(name.clone()).or_default().insert(set.data[0].kind(), planned);
        }
        let plan = ZonePlan { sets, ..bare(&zone) };
        let text = print_zone(&plan).expect("a zone file");
        let again = read_zone(&zone, &text).expect(&text);
        let sorted = |imported: &Imported| {
            let mut lines: Vec<String> = imported.sets.iter().map(|set| format!("{set:?}")).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&imported), sorted(&again), "{text}");
    }

    #[test]
    fn a_signed_zone_is_printed_with_its_keys_and_they_are_not_brought_in_elsewhere() {
        let zone = host("z.test");
        let (_, public) = crate::new_zone_key().expect("a key");
        let private = pangolin_core::record::Sealed { kek: 1, wrapped_key: Vec::new(), content: Vec::new() };
        let made_at = pangolin_core::Timestamp(0);
        let key = pangolin_core::dns::ZoneKey { public: public.clone(), private, made_at };
        let plan = ZonePlan { key: Some(key), ..bare(&zone) };
        let text = print_zone(&plan).expect("a zone file");
        for kind in [" IN DNSKEY 257 3 13 ", " IN CDNSKEY 257 3 13 ", " IN CDS "] {
            assert!(text.contains(kind), "{kind}: {text}");
        }
        let signer = crate::delegation_signer(&zone, &public);
        let ds = signer.split_once(" DS ").expect("a DS record").1;
        assert!(text.to_uppercase().contains(&format!(" CDS {ds}")), "{ds}: {text}");
        let imported = read_zone(&zone, &text).expect("a zone");
        assert!(imported.sets.is_empty() && imported.skipped.len() == 4, "{imported:?}");
    }

    #[test]
    fn what_is_no_zone_file_is_refused_with_its_reason() {
        for (text, why) in [
            ("a 60 IN A 192.0.2.300\n", "1:"),
            ("other.test. 60 IN A 192.0.2.1\n", "does not lie in the zone"),
            ("$INCLUDE more.zone\n", "includes another file"),
            ("a 60 IN MX 10 .\n", "has the preference 0"),
            ("a 60 IN CNAME .\n", "cannot be empty"),
        ] {
            let error = read_zone(&host("z.test"), text).expect_err(text).to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        let read = |kind: &str, value: &str| {
            read_value(&host("z.test"), kind.parse().expect("a type"), value).map_err(|e| e.to_string())
        };
        assert_eq!(read("MX", "10 mail"), Ok(RecordData::Mx(10, host("mail.z.test"))));
        assert_eq!(read("MX", "10 mail.else.test."), Ok(RecordData::Mx(10, host("mail.else.test"))));
        assert_eq!(read("MX", "0 ."), Ok(RecordData::NullMx));
        assert_eq!(read("SRV", "1 2 3 ."), Ok(RecordData::NullSrv(1, 2, 3)));
        assert_eq!(read("TXT", "\"a b\""), Ok(RecordData::Txt(b"a b".to_vec())));
        assert_eq!(read("TYPE52", "3 1 1 aa"), Ok(RecordData::Other(52, vec![3, 1, 1, 0xaa])));
        assert_eq!(read("PTR", "Host"), Ok(RecordData::Other(12, b"\x04host\x01z\x04test\x00".to_vec())));
        for (kind, value) in
            [("A", "one"), ("A", "192.0.2.1 192.0.2.2"), ("A", "192.0.2.1\nb 1 IN A 192.0.2.2"), ("MX", "")]
        {
            assert!(read(kind, value).is_err(), "{kind} {value}");
        }
    }
}
