//! Where clients are: rules of the operator first, then a database in MaxMind's format.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::SystemTime,
};

use ipnet::IpNet;
use maxminddb::{Reader, geoip2};
use pangolin_core::name::Slug;

use crate::DnsError;

/// Part of a client's address that a resolver passes on (RFC 7871 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientSubnet {
    /// The address, with zeros behind the prefix.
    pub(crate) address: IpAddr,
    /// SOURCE PREFIX-LENGTH.
    pub(crate) source: u8,
}

/// IANA address family numbers.
const IPV4: u16 = 1;
const IPV6: u16 = 2;

impl ClientSubnet {
    /// Reads the option of a query; none if it is malformed (RFC 7871 §7.1.2).
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let (head, bytes) = data.split_at_checked(4)?;
        let family = u16::from_be_bytes([head[0], head[1]]);
        let (source, scope) = (head[2], head[3]);
        let bits = if family == IPV4 { 32 } else { 128 };
        if scope != 0 || source > bits || bytes.len() != usize::from(source.div_ceil(8)) {
            return None;
        }
        let mut whole = [0; 16];
        whole[..bytes.len()].copy_from_slice(bytes);
        let address = match family {
            IPV4 => IpAddr::V4(Ipv4Addr::new(whole[0], whole[1], whole[2], whole[3])),
            IPV6 => IpAddr::V6(Ipv6Addr::from(whole)),
            _ => return None,
        };
        // Bits behind the prefix must be zero.
        let net = IpNet::new(address, source).ok()?;
        (net.trunc().addr() == address).then_some(Self { address, source })
    }

    /// Bytes of the option's data in a reply.
    pub(crate) fn len(self) -> usize {
        4 + usize::from(self.source.div_ceil(8))
    }

    /// Appends the option's data for a reply that holds for `scope` bits.
    pub(crate) fn write(self, scope: u8, out: &mut Vec<u8>) {
        let family = if self.address.is_ipv4() { IPV4 } else { IPV6 };
        out.extend_from_slice(&family.to_be_bytes());
        out.extend_from_slice(&[self.source, scope]);
        let length = usize::from(self.source.div_ceil(8));
        match self.address {
            IpAddr::V4(address) => out.extend_from_slice(&address.octets()[..length]),
            IpAddr::V6(address) => out.extend_from_slice(&address.octets()[..length]),
        }
    }
}

/// The operator's rules: the longest prefix counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rules {
    by_network: HashMap<IpNet, Slug>,
    /// Prefix lengths that occur, longest first.
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Rules {
    pub(crate) fn new(rules: &[(IpNet, Slug)]) -> Self {
        let lengths = |v4: bool| {
            let of_family = rules.iter().map(|(network, _)| network).filter(|n| n.addr().is_ipv4() == v4);
            let lengths: BTreeSet<u8> = of_family.map(IpNet::prefix_len).collect();
            lengths.into_iter().rev().collect()
        };
        Self { by_network: rules.iter().cloned().collect(), v4: lengths(true), v6: lengths(false) }
    }

    /// The region of an address, and how many of its bits say so.
    fn find(&self, address: IpAddr) -> Option<(&Slug, u8)> {
        let lengths = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        lengths.iter().find_map(|length| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            Some((self.by_network.get(&network)?, *length))
        })
    }
}

/// A database in MaxMind's format (City, Country, or one with a `region` of its own).
pub struct GeoDatabase {
    reader: Reader<Vec<u8>>,
}

impl GeoDatabase {
    /// Reads a database.
    ///
    /// # Errors
    /// The file cannot be read, or is no such database.
    pub fn open(path: &Path) -> Result<Self, DnsError> {
        let refuse = |why: String| DnsError::Config {
            what: format!("the database of regions {} cannot be used: {why}", path.display()),
        };
        let bytes = std::fs::read(path).map_err(|error| refuse(error.to_string()))?;
        let reader = Reader::from_source(bytes).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { reader })
    }

    /// What the database says of an address, the smallest area first, and how many bits say so: a `region` of its
    /// own, the country, the continent. In lower case, as nodes name their regions.
    fn find(&self, address: IpAddr) -> Option<(Vec<String>, u8)> {
        let found = self.reader.lookup(address).ok().filter(maxminddb::LookupResult::has_data)?;
        let own = found.decode_path::<&str>(&[maxminddb::PathElement::Key("region")]).ok().flatten();
        let place = found.decode::<geoip2::Country<'_>>().ok().flatten();
        let country = place.as_ref().and_then(|place| place.country.iso_code);
        let continent = place.as_ref().and_then(|place| place.continent.code);
        let words = [own, country, continent].into_iter().flatten().map(str::to_ascii_lowercase);
        Some((words.collect(), found.network().ok()?.prefix()))
    }
}

impl fmt::Debug for GeoDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GeoDatabase({})", self.reader.metadata.database_type)
    }
}

/// A database in a file that is replaced now and then, as those who publish them do weekly.
#[derive(Debug)]
pub struct RegionsFile {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// Tells one version of a file from another: inode, size, and time of its last change.
type Stamp = (u64, u64, SystemTime);

impl RegionsFile {
    /// Reads the database of a file.
    ///
    /// # Errors
    /// As for [`GeoDatabase::open`].
    pub fn open(path: &Path) -> Result<(Self, GeoDatabase), DnsError> {
        // What is written meanwhile is read the next time.
        let seen = stamp(path);
        let database = GeoDatabase::open(path)?;
        Ok((Self { path: path.to_owned(), seen }, database))
    }

    /// The database, if the file is another one than before. One that cannot be used is said to be so once. A file that
    /// is gone has not changed: it is about to be replaced.
    ///
    /// # Errors
    /// As for [`GeoDatabase::open`].
    pub fn changed(&mut self) -> Result<Option<GeoDatabase>, DnsError> {
        let now = stamp(&self.path);
        if now.is_none() || now == self.seen {
            return Ok(None);
        }
        self.seen = now;
        GeoDatabase::open(&self.path).map(Some)
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.ino(), metadata.len(), metadata.modified().ok()?))
}

/// Where a client is, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Names of regions that it lies in, best first.
    pub(crate) regions: Vec<String>,
    /// How many bits of the address say so.
    pub(crate) scope: u8,
}

/// Finds where a client is.
pub(crate) fn locate(rules: &Rules, database: Option<&GeoDatabase>, client: IpAddr) -> Place {
    let client = client.to_canonical();
    if let Some((region, scope)) = rules.find(client) {
        return Place { regions: vec![region.to_string()], scope };
    }
    let found = database.and_then(|database| database.find(client));
    let (regions, scope) = found.unwrap_or_default();
    // Rules within the network that the database knows would say something else.
    let finest = if client.is_ipv4() { &rules.v4 } else { &rules.v6 }.first().copied().unwrap_or(0);
    Place { regions, scope: scope.max(finest) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[(&str, &str)]) -> Rules {
        let read = |(network, region): &(&str, &str)| {
            (network.parse().expect("a network"), region.parse().expect("a region"))
        };
        Rules::new(&rules.iter().map(read).collect::<Vec<_>>())
    }

    #[test]
    fn the_longest_prefix_says_where_a_client_is() {
        let rules = rules(&[("10.0.0.0/8", "eu"), ("10.1.0.0/16", "us"), ("2001:db8::/32", "eu")]);
        let place = |address: &str| {
            let place = locate(&rules, None, address.parse().expect("an address"));
            (place.regions.join(","), place.scope)
        };
        assert_eq!(place("10.2.3.4"), ("eu".to_owned(), 8));
        assert_eq!(place("10.1.3.4"), ("us".to_owned(), 16));
        assert_eq!(place("::ffff:10.1.3.4"), ("us".to_owned(), 16));
        assert_eq!(place("2001:db8::1"), ("eu".to_owned(), 32));
        assert_eq!(place("192.0.2.1"), (String::new(), 16), "no finer than the finest rule");
    }

    #[test]
    fn a_client_subnet_is_read_and_written_as_rfc_7871_says() {
        let option = [0, 1, 22, 0, 192, 0, 0];
        let read = ClientSubnet::read(&option).expect("a subnet");
        assert_eq!((read.address.to_string().as_str(), read.source), ("192.0.0.0", 22));
        let mut written = Vec::new();
        read.write(16, &mut written);
        assert_eq!(written, [0, 1, 22, 16, 192, 0, 0]);
        assert_eq!(written.len(), read.len());
        assert!(ClientSubnet::read(&[0, 1, 0, 0]).is_some(), "the client does not want to tell");
        assert!(ClientSubnet::read(&[0, 2, 56, 0, 32, 1, 13, 184, 0, 0, 1]).is_some());
        for bad in [
            &[0, 1, 24, 0, 192, 0][..],
            &[0, 1, 24, 0, 192, 0, 2, 1],
            &[0, 1, 33, 0, 192, 0, 2, 1, 1],
            &[0, 1, 22, 0, 192, 0, 1],
            &[0, 1, 24, 24, 192, 0, 2],
            &[0, 3, 8, 0, 1],
            &[0, 1, 24],
            &[],
        ] {
            assert_eq!(ClientSubnet::read(bad), None, "{bad:?}");
        }
    }
}
