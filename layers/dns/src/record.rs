//! Record sets in wire form, ready to be copied into a reply.

use domain::{
    base::{
        Name, Serial, Ttl,
        iana::{Class, Rtype},
        rdata::{ComposeRecordData, UnknownRecordData},
    },
    rdata::{
        A, Aaaa, Cname, Mx, Ns, Soa, Srv, Txt,
        caa::{Caa, CaaFlags, CaaTag},
    },
};
use pangolin_core::{
    name::HostName,
    plan::{PlannedSet, ZonePlan},
    record::{RecordData, RecordKind},
};

use crate::{defect::Defect, name::WireName, request::HEADER};

/// Bytes of a record before its data, with a compressed owner.
const RECORD_FIXED: usize = 12;
/// Largest record set: what TCP carries, less room for the question, a chain of aliases and OPT.
const SET_MAX: usize = 60_000;
/// Longest TTL (RFC 2181 §8).
const TTL_MAX: u32 = i32::MAX as u32;

/// SOA TTL in positive answers, in seconds. Short, because the serial moves with every change.
const SOA_TTL: u32 = 300;
/// SOA REFRESH, in seconds: what zone checkers ask for at least; secondaries are told of changes anyway.
const SOA_REFRESH: u32 = 14_400;
/// SOA RETRY, in seconds.
const SOA_RETRY: u32 = 3_600;
/// SOA EXPIRE, in seconds: two weeks, RFC 1912 §2.2.
const SOA_EXPIRE: u32 = 1_209_600;

/// A record set. Its records are owned by a pointer to the question.
#[derive(Clone, Debug)]
pub(crate) struct Set {
    pub(crate) kind: Rtype,
    /// Number of records; none for a set that has no wire form and is answered with SERVFAIL.
    pub(crate) count: u16,
    pub(crate) wire: Box<[u8]>,
    /// Names within the data that further records may be looked up for.
    pub(crate) targets: Box<[Target]>,
}

/// A name that a record points at.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Where the name stands in the set's wire form.
    pub(crate) at: u16,
    /// Wire form in lower case; empty for the owner of the set itself.
    pub(crate) name: Box<[u8]>,
}

impl Set {
    /// The wire form of a planned set, duplicates left out (RFC 2181 §5).
    pub(crate) fn new(kind: RecordKind, planned: &PlannedSet) -> Result<Self, Defect> {
        let mut set = Writer::new(rtype(kind), planned.ttl);
        for (position, data) in planned.data.iter().enumerate() {
            if data.kind() != kind {
                return Err(Defect::Kind);
            }
            if !planned.data[..position].contains(data) {
                set.push(data)?;
            }
        }
        if kind == RecordKind::Cname && set.count > 1 {
            return Err(Defect::Aliases);
        }
        set.finish()
    }

    /// The zone's SOA record.
    pub(crate) fn soa(zone: &ZonePlan) -> Result<Self, Defect> {
        Self::soa_with_ttl(zone, SOA_TTL)
    }

    /// The SOA record of negative answers: its TTL is the time for which they may be kept (RFC 2308 §3).
    pub(crate) fn negative_soa(zone: &ZonePlan) -> Result<Self, Defect> {
        Self::soa_with_ttl(zone, SOA_TTL.min(zone.negative_ttl))
    }

    fn soa_with_ttl(zone: &ZonePlan, ttl: u32) -> Result<Self, Defect> {
        let mut set = Writer::new(Rtype::SOA, ttl);
        set.record(&Soa::new(
            wire_name(&zone.primary)?,
            wire_name(&zone.contact)?,
            Serial(zone.serial),
            Ttl::from_secs(SOA_REFRESH),
            Ttl::from_secs(SOA_RETRY),
            Ttl::from_secs(SOA_EXPIRE),
            Ttl::from_secs(zone.negative_ttl.min(TTL_MAX)),
        ))?;
        set.finish()
    }

    /// A set of one record with data in wire form, which has 64 KiB at most.
    pub(crate) fn single(kind: Rtype, ttl: u32, data: &[u8]) -> Self {
        Self::of(kind, ttl, &[data])
    }

    /// A set of few records with data in wire form, each of which has 64 KiB at most.
    pub(crate) fn of<D: AsRef<[u8]>>(kind: Rtype, ttl: u32, records: &[D]) -> Self {
        let bytes = records.iter().map(|data| RECORD_FIXED + data.as_ref().len()).sum();
        let mut wire = Vec::with_capacity(bytes);
        for data in records.iter().map(AsRef::as_ref) {
            wire.extend_from_slice(&[0xc0, HEADER as u8]);
            wire.extend_from_slice(&kind.to_int().to_be_bytes());
            wire.extend_from_slice(&Class::IN.to_int().to_be_bytes());
            wire.extend_from_slice(&ttl.to_be_bytes());
            wire.extend_from_slice(&(data.len() as u16).to_be_bytes());
            wire.extend_from_slice(data);
        }
        Self { kind, count: records.len() as u16, wire: wire.into(), targets: Box::default() }
    }

    /// Seconds that resolvers may keep it; 0 for a set without wire form.
    pub(crate) fn ttl(&self) -> u32 {
        self.wire.get(6..10).and_then(|ttl| ttl.try_into().ok()).map_or(0, u32::from_be_bytes)
    }

    /// The data of each record.
    pub(crate) fn data(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.wire;
        std::iter::from_fn(move || {
            let length = usize::from(u16::from_be_bytes([*rest.get(10)?, *rest.get(11)?]));
            let data = rest.get(RECORD_FIXED..RECORD_FIXED + length)?;
            rest = &rest[RECORD_FIXED + length..];
            Some(data)
        })
    }

    /// Stands in for a set that has no wire form.
    pub(crate) fn broken(kind: RecordKind) -> Self {
        Self { kind: rtype(kind), count: 0, wire: Box::default(), targets: Box::default() }
    }

    /// Whether the set has no wire form.
    pub(crate) fn is_broken(&self) -> bool {
        self.count == 0
    }
}

/// A core name in domain's form.
pub(crate) fn wire_name(name: &HostName) -> Result<Name<Vec<u8>>, Defect> {
    Name::vec_from_str(name.as_str()).map_err(Defect::encoding)
}

pub(crate) fn rtype(kind: RecordKind) -> Rtype {
    kind.number().into()
}

/// Collects the records of one set.
struct Writer {
    kind: Rtype,
    ttl: u32,
    count: u16,
    wire: Vec<u8>,
    targets: Vec<Target>,
}

impl Writer {
    fn new(kind: Rtype, ttl: u32) -> Self {
        Self { kind, ttl: ttl.min(TTL_MAX), count: 0, wire: Vec::new(), targets: Vec::new() }
    }

    fn push(&mut self, data: &RecordData) -> Result<(), Defect> {
        match data {
            RecordData::A(address) => self.record(&A::new(*address)),
            RecordData::Aaaa(address) => self.record(&Aaaa::new(*address)),
            RecordData::Txt(text) => {
                self.record(&Txt::<Vec<u8>>::build_from_slice(text).map_err(Defect::encoding)?)
            }
            RecordData::Cname(name) => {
                let name = self.target(name, 0)?;
                self.record(&Cname::new(name))
            }
            RecordData::Ns(name) => {
                let name = self.target(name, 0)?;
                self.record(&Ns::new(name))
            }
            RecordData::Mx(preference, name) => {
                let name = self.target(name, 2)?;
                self.record(&Mx::new(*preference, name))
            }
            RecordData::Srv(priority, weight, port, name) => {
                let name = self.target(name, 6)?;
                self.record(&Srv::new(*priority, *weight, *port, name))
            }
            RecordData::NullMx => self.record(&Mx::new(0, Name::root_vec())),
            RecordData::NullSrv(priority, weight, port) => {
                self.record(&Srv::new(*priority, *weight, *port, Name::root_vec()))
            }
            RecordData::Caa(flags, tag, value) => {
                let tag = CaaTag::from_octets(tag.clone().into_bytes()).map_err(Defect::encoding)?;
                let data =
                    Caa::try_new(CaaFlags::new(*flags), tag, value.clone()).map_err(Defect::encoding)?;
                self.record(&data)
            }
            RecordData::Other(_, data) => {
                if matches!(self.kind, Rtype::SVCB | Rtype::HTTPS) {
                    self.service(data)?;
                }
                let data = UnknownRecordData::from_octets(self.kind, data.as_slice());
                self.record(&data.map_err(Defect::encoding)?)
            }
        }
    }

    /// Notes that the next record points at `name`, `before` bytes into its data.
    fn target(&mut self, name: &HostName, before: usize) -> Result<Name<Vec<u8>>, Defect> {
        let name = wire_name(name)?;
        let at = u16::try_from(self.wire.len() + RECORD_FIXED + before).map_err(|_| Defect::Size)?;
        self.point_at(at, name.as_slice().into());
        Ok(name)
    }

    /// Notes what a service binding points at (RFC 9460 §2.2): behind the priority stands a name, and the root is its
    /// owner, or with the priority 0, nobody.
    fn service(&mut self, data: &[u8]) -> Result<(), Defect> {
        let Some((priority, rest)) = data.split_first_chunk::<2>() else { return Ok(()) };
        let Some(name) = WireName::read(rest) else { return Ok(()) };
        let at = u16::try_from(self.wire.len() + RECORD_FIXED + priority.len()).map_err(|_| Defect::Size)?;
        match (*priority, name.labels()) {
            ([0, 0], 0) => {}
            (_, 0) => self.point_at(at, Box::default()),
            _ => self.point_at(at, name.suffix(0).into()),
        }
        Ok(())
    }

    fn point_at(&mut self, at: u16, name: Box<[u8]>) {
        if !self.targets.iter().any(|target| target.name == name) {
            self.targets.push(Target { at, name });
        }
    }

    fn record(&mut self, data: &impl ComposeRecordData) -> Result<(), Defect> {
        // A pointer to the question, which begins right behind the header.
        self.wire.extend_from_slice(&[0xc0, HEADER as u8]);
        self.wire.extend_from_slice(&self.kind.to_int().to_be_bytes());
        self.wire.extend_from_slice(&Class::IN.to_int().to_be_bytes());
        self.wire.extend_from_slice(&self.ttl.to_be_bytes());
        let length_at = self.wire.len();
        self.wire.extend_from_slice(&[0, 0]);
        let Ok(()) = data.compose_rdata(&mut self.wire);
        let length = u16::try_from(self.wire.len() - length_at - 2).map_err(|_| Defect::Size)?;
        self.wire[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        self.count = self.count.checked_add(1).ok_or(Defect::Size)?;
        if self.wire.len() > SET_MAX { Err(Defect::Size) } else { Ok(()) }
    }

    fn finish(self) -> Result<Set, Defect> {
        if self.count == 0 {
            return Err(Defect::Empty);
        }
        Ok(Set { kind: self.kind, count: self.count, wire: self.wire.into(), targets: self.targets.into() })
    }
}
