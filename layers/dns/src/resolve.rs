//! From the question to the records: RFC 1034 §4.3.2 with its corrections (RFC 2181, 2308, 4592, 6604, 8482), and what
//! DNSSEC adds to it (RFC 4035 §3.1, RFC 9824).

use std::{net::IpAddr, ptr};

use domain::base::iana::{Rcode, Rtype};

use crate::{
    GeoDatabase,
    name::WireName,
    record::{Set, Target},
    region::{Place, locate},
    reply::{Full, Reply, Section},
    request::{HEADER, Question},
    sign::{ZoneSigner, denial},
    store::{Cut, Entry, Found, Store},
};

/// Most aliases followed for one answer. Longer chains are cut there; the resolver asks on.
const ALIASES_MAX: usize = 8;

/// Who asks.
pub(crate) struct Client<'a> {
    /// The address that says where.
    pub(crate) address: IpAddr,
    /// Wants signatures.
    pub(crate) dnssec_ok: bool,
    /// Understands NXDOMAIN beside a compact denial.
    pub(crate) compact_ok: bool,
    /// Tells where addresses are.
    pub(crate) regions: Option<&'a GeoDatabase>,
    /// Seconds since 1970.
    pub(crate) now: u32,
}

/// Why an answer is not completed.
pub(crate) enum Stop {
    /// It does not fit.
    Full,
    /// A record set has no wire form, or cannot be signed.
    Broken,
}

impl From<Full> for Stop {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

/// Answers the question from the store.
pub(crate) fn resolve(
    store: &Store,
    client: &Client<'_>,
    question: &Question,
    reply: &mut Reply<'_>,
) -> Result<Rcode, Stop> {
    Resolution { store, client, kind: question.kind, reply, place: None }.follow(question.name)
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

/// What a name does not have.
#[derive(Clone, Copy)]
enum Denied<'a> {
    /// The name itself is not there.
    Name,
    /// It is, with these record sets and no others.
    Data(&'a [Set]),
}

struct Resolution<'a, 'r, 'b> {
    store: &'a Store,
    client: &'a Client<'a>,
    kind: Rtype,
    reply: &'r mut Reply<'b>,
    /// Looked up when an answer depends on it.
    place: Option<Place>,
}

impl<'a> Resolution<'a, '_, '_> {
    /// Follows aliases within the zone until there is data, or none.
    fn follow(&mut self, name: WireName) -> Result<Rcode, Stop> {
        let mut wanted = Wanted { name, at: HEADER };
        let mut zone_of_question = None;
        let mut aliases: Vec<&Entry> = Vec::new();
        loop {
            let found = self.store.find(&wanted.name);
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
                Found::Delegated(_, cut) => return self.refer(&wanted, zone, cut),
                Found::Entry(_, entry) => entry,
                Found::Missing(_) | Found::Foreign => {
                    self.reply.authoritative = true;
                    return self.deny(&wanted, zone, Denied::Name);
                }
            };
            self.reply.authoritative = true;
            let sets = self.sets_of(entry);
            if self.ask_for_proof(&wanted, zone, sets)? {
                return Ok(Rcode::NOERROR);
            }
            let Some(set) = self.choose(zone, &wanted.name, sets) else {
                return self.deny(&wanted, zone, Denied::Data(sets));
            };
            let is_alias = set.kind == Rtype::CNAME;
            if is_alias && aliases.iter().any(|alias| ptr::eq(*alias, entry)) {
                // The circle is left where it closes.
                return Ok(Rcode::NOERROR);
            }
            let at = self.reply.position();
            self.push(zone, Section::Answer, wanted.at, &wanted.name, set)?;
            if !is_alias {
                self.add_targets(&wanted, zone, sets, at, set);
                return Ok(Rcode::NOERROR);
            }
            let next = set.targets.first().and_then(|target| Some((target, WireName::read(&target.name)?)));
            let asked_for = matches!(self.kind, Rtype::CNAME | Rtype::ANY);
            match next {
                Some((target, name)) if !asked_for && aliases.len() < ALIASES_MAX => {
                    aliases.push(entry);
                    wanted = Wanted { name, at: at + usize::from(target.at) };
                }
                _ => return Ok(Rcode::NOERROR),
            }
        }
    }

    /// The record sets of a name, as this client is answered.
    fn sets_of(&mut self, entry: &'a Entry) -> &'a [Set] {
        if entry.regional.is_empty() {
            return &entry.sets;
        }
        let (store, client) = (self.store, self.client);
        let place = self.place.get_or_insert_with(|| locate(&store.rules, client.regions, client.address));
        self.reply.set_scope(place.scope);
        entry.sets_for(place)
    }

    /// The set that answers the question about a name.
    fn choose(&self, zone: usize, name: &WireName, sets: &'a [Set]) -> Option<&'a Set> {
        let zone = self.store.zone(zone);
        let at_apex = name.len() == zone.apex_len;
        let of = |kind| sets.iter().find(|set| set.kind == kind);
        match self.kind {
            Rtype::SOA if at_apex => Some(&zone.soa),
            // RFC 8482 §4.1: any one set will do.
            Rtype::ANY => sets.first().or(at_apex.then_some(&zone.soa)),
            kind => of(kind).or_else(|| of(Rtype::CNAME)),
        }
    }

    /// Answers questions about signatures and denials themselves; true if it was one.
    fn ask_for_proof(&mut self, wanted: &Wanted, zone: usize, sets: &[Set]) -> Result<bool, Stop> {
        let Some(signer) = self.store.zone(zone).signer.as_deref() else { return Ok(false) };
        match self.kind {
            Rtype::NSEC => {
                let set = self.denial(wanted, zone, Denied::Data(sets))?;
                self.push(zone, Section::Answer, wanted.at, &wanted.name, &set)?;
                Ok(true)
            }
            // In the manner of RFC 8482: the signature of any one set will do.
            Rtype::RRSIG => match sets.first() {
                Some(set) => {
                    let signature = self.sign(signer, &wanted.name, set)?;
                    self.reply.push(Section::Answer, wanted.at, &signature)?;
                    Ok(true)
                }
                None => Ok(false),
            },
            _ => Ok(false),
        }
    }

    /// Says that there is no such name or no such data (RFC 2308 §2, RFC 9824 §3).
    fn deny(&mut self, wanted: &Wanted, zone: usize, denied: Denied<'_>) -> Result<Rcode, Stop> {
        let of_zone = self.store.zone(zone);
        let apex = WireName::read(wanted.name.last(of_zone.apex_len)).ok_or(Stop::Broken)?;
        let at = wanted.suffix_at(of_zone.apex_len);
        self.push(zone, Section::Authority, at, &apex, &of_zone.negative_soa)?;
        let missing = matches!(denied, Denied::Name);
        if self.signer(zone).is_none() {
            return Ok(if missing { Rcode::NXDOMAIN } else { Rcode::NOERROR });
        }
        let set = self.denial(wanted, zone, denied)?;
        self.push(zone, Section::Authority, wanted.at, &wanted.name, &set)?;
        // A name that is denied in this manner looks as if it were there without data; who knows the manner is told.
        Ok(if missing && self.client.compact_ok { Rcode::NXDOMAIN } else { Rcode::NOERROR })
    }

    fn denial(&self, wanted: &Wanted, zone: usize, denied: Denied<'_>) -> Result<Set, Stop> {
        let zone = self.store.zone(zone);
        let mut types: Vec<Rtype> = match denied {
            Denied::Name => vec![Rtype::NXNAME],
            Denied::Data(sets) => sets.iter().map(|set| set.kind).collect(),
        };
        if wanted.name.len() == zone.apex_len {
            types.push(Rtype::SOA);
        }
        denial(&wanted.name, types, zone.negative_soa.ttl()).ok_or(Stop::Broken)
    }

    /// Sends the client to the servers of a delegated zone.
    fn refer(&mut self, wanted: &Wanted, zone: usize, cut: &'a Cut) -> Result<Rcode, Stop> {
        let owner = WireName::read(&cut.owner).ok_or(Stop::Broken)?;
        let at_cut = Wanted { name: owner, at: wanted.suffix_at(cut.owner.len()) };
        if self.kind == Rtype::DS && wanted.name.len() == cut.owner.len() {
            // DS lives on this side of the cut (RFC 4035 §3.1.4.1).
            self.reply.authoritative = true;
            let Some(set) = &cut.signer else {
                return self.deny_signer(&at_cut, zone);
            };
            self.push(zone, Section::Answer, at_cut.at, &owner, set)?;
            return Ok(Rcode::NOERROR);
        }
        let at = self.reply.position();
        if cut.servers.is_broken() {
            return Err(Stop::Broken);
        }
        // What stands at a cut belongs to the other side, and is not signed here.
        self.reply.push(Section::Authority, at_cut.at, &cut.servers)?;
        if let Some(signer) = self.signer(zone) {
            match &cut.signer {
                Some(set) => self.push(zone, Section::Authority, at_cut.at, &owner, set)?,
                None => {
                    let set = self.no_signer(&at_cut, zone)?;
                    let signature = self.sign(signer, &owner, &set)?;
                    self.reply.push(Section::Authority, at_cut.at, &set)?;
                    self.reply.push(Section::Authority, at_cut.at, &signature)?;
                }
            }
        }
        let (mut whole, mut all) = (true, true);
        for target in &cut.servers.targets {
            let needed = is_within(&target.name, &cut.owner);
            let fitted = self.add_addresses(at, target);
            whole &= fitted || !needed;
            all &= fitted;
        }
        if all {
            self.add_signatures(at, &cut.servers.targets);
        }
        // RFC 9471 §3.1: without the addresses of servers within the delegated zone the referral leads nowhere.
        if whole { Ok(Rcode::NOERROR) } else { Err(Stop::Full) }
    }

    /// Says that a delegated zone is not signed.
    fn deny_signer(&mut self, at_cut: &Wanted, zone: usize) -> Result<Rcode, Stop> {
        let of_zone = self.store.zone(zone);
        let apex = WireName::read(at_cut.name.last(of_zone.apex_len)).ok_or(Stop::Broken)?;
        let at = at_cut.suffix_at(of_zone.apex_len);
        self.push(zone, Section::Authority, at, &apex, &of_zone.negative_soa)?;
        if self.signer(zone).is_some() {
            let set = self.no_signer(at_cut, zone)?;
            self.push(zone, Section::Authority, at_cut.at, &at_cut.name, &set)?;
        }
        Ok(Rcode::NOERROR)
    }

    /// NSEC of a cut without DS (RFC 4035 §2.3).
    fn no_signer(&self, at_cut: &Wanted, zone: usize) -> Result<Set, Stop> {
        let ttl = self.store.zone(zone).negative_soa.ttl();
        denial(&at_cut.name, [Rtype::NS], ttl).ok_or(Stop::Broken)
    }

    /// The zone's key, if the client wants signatures.
    fn signer(&self, zone: usize) -> Option<&'a ZoneSigner> {
        self.store.zone(zone).signer.as_deref().filter(|_| self.client.dnssec_ok)
    }

    fn sign(&self, signer: &ZoneSigner, owner: &WireName, set: &Set) -> Result<Set, Stop> {
        signer.sign(owner, set, self.client.now).ok_or(Stop::Broken)
    }

    /// Adds a record set, owned by the name that stands at `at`, and its signature.
    fn push(
        &mut self,
        zone: usize,
        section: Section,
        at: usize,
        owner: &WireName,
        set: &Set,
    ) -> Result<(), Stop> {
        if set.is_broken() {
            return Err(Stop::Broken);
        }
        self.reply.push(section, at, set)?;
        if let Some(signer) = self.signer(zone) {
            let signature = self.sign(signer, owner, set)?;
            self.reply.push(section, at, &signature)?;
        }
        Ok(())
    }

    /// Adds the addresses of what the records of an answer point at, and their signatures (RFC 4035 §3.1.1).
    fn add_targets(&mut self, wanted: &Wanted, zone: usize, sets: &'a [Set], set_at: usize, set: &Set) {
        if matches!(set.kind, Rtype::SVCB | Rtype::HTTPS) {
            for target in &set.targets {
                self.add_service(wanted, zone, sets, set_at, target);
            }
            return;
        }
        let mut all = true;
        for target in &set.targets {
            all &= self.add_addresses(set_at, target);
        }
        if all {
            self.add_signatures(set_at, &set.targets);
        }
    }

    /// Adds the addresses of what a service binding points at. They spare clients a question (RFC 9460 §4.1), and have
    /// their signatures, so that it is spared to those that validate as well.
    fn add_service(&mut self, wanted: &Wanted, zone: usize, sets: &'a [Set], set_at: usize, target: &Target) {
        if target.name.is_empty() {
            self.add_signed(zone, wanted.at, &wanted.name, sets);
            return;
        }
        let Some((entry, name)) = self.store.entry(&target.name).zip(WireName::read(&target.name)) else {
            return;
        };
        // What lies below a delegation is for others to say.
        if entry.cut.is_none() {
            let sets = self.sets_of(entry);
            self.add_signed(entry.zone, set_at + usize::from(target.at), &name, sets);
        }
    }

    /// Adds the addresses among the sets of a name, each with its signature, as far as both fit.
    fn add_signed(&mut self, zone: usize, at: usize, owner: &WireName, sets: &[Set]) {
        for set in sets.iter().filter(|set| matches!(set.kind, Rtype::A | Rtype::AAAA) && !set.is_broken()) {
            let signature = self.signer(zone).map(|signer| signer.sign(owner, set, self.client.now));
            let signature = match signature {
                Some(None) => continue,
                Some(Some(signature)) => Some(signature),
                None => None,
            };
            let bytes = set.wire.len() + signature.as_ref().map_or(0, |signature| signature.wire.len());
            if self.reply.has_room(bytes) {
                for set in std::iter::once(set).chain(&signature) {
                    // There is room; what stands too far behind for a pointer is left out.
                    let _ = self.reply.push(Section::Additional, at, set);
                }
            }
        }
    }

    /// Adds the addresses that we know of a name within the set that stands at `set_at`. Returns whether all fitted.
    fn add_addresses(&mut self, set_at: usize, target: &Target) -> bool {
        let Some(entry) = self.store.entry(&target.name) else { return true };
        let mut fitted = true;
        for set in [Rtype::A, Rtype::AAAA].into_iter().filter_map(|kind| entry.set(kind)) {
            let at = set_at + usize::from(target.at);
            fitted &= set.is_broken() || self.reply.push(Section::Additional, at, set).is_ok();
        }
        fitted
    }

    /// Adds the signatures of addresses that stand in the reply already, as far as they fit: an address without one is
    /// still of use, and no reason to come by TCP. What lies below a delegation is for others to sign.
    fn add_signatures(&mut self, set_at: usize, targets: &[Target]) {
        for target in targets {
            let Some((entry, name)) = self.store.entry(&target.name).zip(WireName::read(&target.name)) else {
                continue;
            };
            let Some(signer) = self.signer(entry.zone).filter(|_| entry.cut.is_none()) else { continue };
            let addresses = [Rtype::A, Rtype::AAAA].into_iter().filter_map(|kind| entry.set(kind));
            for set in addresses.filter(|set| !set.is_broken()) {
                if let Some(signature) = signer.sign(&name, set, self.client.now) {
                    // What does not fit is left out.
                    let _ = self.reply.push(Section::Additional, set_at + usize::from(target.at), &signature);
                }
            }
        }
    }
}

fn is_within(name: &[u8], zone: &[u8]) -> bool {
    WireName::read(name).is_some_and(|name| (0..=name.labels()).any(|skipped| name.suffix(skipped) == zone))
}
