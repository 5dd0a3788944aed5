//! The form of a backup file.
//!
//! ```text
//! magic (8)  header: length (4), encoded   lock: length (4), encoded   content: length (8), encrypted   SHA-256 (32)
//! ```
//!
//! Numbers are little-endian. The header stands in the open, so that files can be listed without a key, and is
//! authenticated by the encryption of the content; the lock holds the data key, wrapped by the keyring and by the
//! recovery key; the content is compressed (zlib, RFC 1950) before it is encrypted. The digest at the end tells
//! damage from a wrong key.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use pangolin_core::{
    ClusterState, Revision, Slug, Timestamp,
    codec::{self, DECODE_MAX},
    id::{ClusterId, NodeId},
    record::{Digest, RecoveryPublic, Sealed},
};
use pangolin_peer::identity::{Escrow, Keyring, Locked, RecoveryKey};
use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::{
    StorageError,
    log::{Entry, LogId},
};

const MAGIC: [u8; 8] = *b"PANGOLNB";
/// Longest encoded header or lock: names and keys.
const PART_MAX: usize = 64 * 1024;
const DIGEST: usize = 32;
/// Speed over size: most of a state is random or short.
const LEVEL: Compression = Compression::new(3);

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The whole state.
    State {
        /// Its digest ([`ClusterState::digest`]).
        digest: Digest,
    },
    /// A segment of the log.
    Log {
        /// Index of its first entry; the last one is at the header's revision.
        first: u64,
    },
}

/// What stands in the open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// What it holds.
    pub kind: Kind,
    /// Of which cluster.
    pub cluster: ClusterId,
    /// That cluster's name.
    pub name: Slug,
    /// How far it goes.
    pub revision: Revision,
    /// Log time there.
    pub time: Timestamp,
    /// When it was made, by the node's clock.
    pub made_at: Timestamp,
    /// By which node.
    pub made_by: NodeId,
    /// By which version of the program.
    pub version: String,
}

impl Header {
    /// Whether it holds the whole state.
    #[must_use]
    pub fn is_state(&self) -> bool {
        matches!(self.kind, Kind::State { .. })
    }

    /// The file's name. A segment that has grown keeps its name.
    #[must_use]
    pub fn file_name(&self) -> String {
        let Revision { lineage, index } = self.revision;
        match self.kind {
            Kind::State { .. } => format!("state-{lineage:04}-{index:012}.pgb"),
            Kind::Log { first } => format!("log-{lineage:04}-{first:012}.pgb"),
        }
    }
}

/// Entries of the log, as they are stored there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment(Vec<(u64, u64, Vec<u8>)>);

impl Segment {
    /// Adds an entry.
    pub fn push(&mut self, entry: &Entry) {
        let LogId { term, index } = entry.id;
        self.0.push((term, index, entry.body.to_vec()));
    }

    /// The entries, in order.
    pub fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.0.into_iter().map(|(term, index, body)| Entry { id: LogId { term, index }, body: body.into() })
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn indices(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|(_, index, _)| *index)
    }
}

/// What is to be written.
#[derive(Clone, Copy, Debug)]
pub enum Content<'a> {
    /// A state.
    State(&'a ClusterState),
    /// A segment of the log.
    Log(&'a Segment),
}

/// What opens a file.
#[derive(Clone, Copy, Debug)]
pub enum Key<'a> {
    /// The keyring of the cluster.
    Keyring(&'a Keyring),
    /// The recovery key.
    Recovery(&'a RecoveryKey),
}

/// What was read.
#[derive(Debug)]
pub enum Opened {
    /// A state, whose digest is the one in the header.
    State(Box<ClusterState>),
    /// A segment, whose entries follow each other without a gap up to the header's revision.
    Log(Segment),
}

/// How the content is locked.
#[derive(Serialize, Deserialize)]
struct Lock {
    kek: u32,
    wrapped_key: Vec<u8>,
    escrow: Option<Escrow>,
}

/// What the content is bound to: a file's content does not open under another header.
fn aad(header: &[u8]) -> String {
    format!("backup|{}", hex::encode(sha2::Sha256::digest(header)))
}

fn too_large(size: usize) -> StorageError {
    StorageError::TooLarge { size, limit: DECODE_MAX }
}

/// Makes the bytes of a file. Blocks: it compresses and encrypts.
///
/// # Errors
/// It is too large, or the system gives no random bytes.
pub fn seal(
    header: &Header,
    content: Content<'_>,
    keyring: &Keyring,
    recovery: Option<&RecoveryPublic>,
) -> Result<Vec<u8>, StorageError> {
    let cannot = |error: &dyn std::fmt::Display| StorageError::Backup {
        name: header.file_name(),
        found: format!("cannot be made: {error}"),
    };
    let plain = match content {
        Content::State(state) => state.encode(),
        Content::Log(segment) => codec::encode(segment),
    }
    .map_err(|error| cannot(&error))?;
    let mut small = ZlibEncoder::new(Vec::new(), LEVEL);
    let small = small.write_all(&plain).and_then(|()| small.finish()).map_err(|error| cannot(&error))?;
    let head = codec::encode(header).map_err(|error| cannot(&error))?;
    let Locked { sealed, escrow } =
        keyring.lock(&small, &aad(&head), recovery).map_err(|error| cannot(&error))?;
    let lock = Lock { kek: sealed.kek, wrapped_key: sealed.wrapped_key, escrow };
    let lock = codec::encode(&lock).map_err(|error| cannot(&error))?;
    let mut bytes = Vec::with_capacity(MAGIC.len() + head.len() + lock.len() + sealed.content.len() + 64);
    bytes.extend_from_slice(&MAGIC);
    for part in [&head, &lock] {
        let length = u32::try_from(part.len()).map_err(|_| too_large(part.len()))?;
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(part);
    }
    bytes.extend_from_slice(&(sealed.content.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&sealed.content);
    let digest = sha2::Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    Ok(bytes)
}

/// Takes `count` bytes off the front.
fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(count).ok_or("it is cut off")?;
    *bytes = rest;
    Ok(taken)
}

fn number<const N: usize>(bytes: &mut &[u8]) -> Result<usize, String> {
    let mut word = [0; 8];
    word[..N].copy_from_slice(take(bytes, N)?);
    usize::try_from(u64::from_le_bytes(word)).map_err(|_| "a length is impossible".to_owned())
}

fn part<'a>(bytes: &mut &'a [u8]) -> Result<&'a [u8], String> {
    let length = number::<4>(bytes)?;
    if length > PART_MAX {
        return Err(format!("a part of it has {length} bytes, {PART_MAX} are taken"));
    }
    take(bytes, length)
}

fn begin<'a>(bytes: &mut &'a [u8]) -> Result<(Header, &'a [u8]), String> {
    if take(bytes, MAGIC.len())? != MAGIC {
        return Err("it does not begin like a backup".to_owned());
    }
    let head = part(bytes)?;
    let header = codec::decode(head, PART_MAX).map_err(|error| format!("its header: {error}"))?;
    Ok((header, head))
}

/// Reads the header alone; `bytes` may be the first ones of the file. Nothing is verified.
///
/// # Errors
/// What is wrong with it.
pub fn peek(bytes: &[u8]) -> Result<Header, String> {
    begin(&mut &*bytes).map(|(header, _)| header)
}

/// The most that [`peek`] needs of a file.
pub(super) const PEEK: u64 = (MAGIC.len() + 4 + PART_MAX) as u64;

/// Reads a whole file, verifies every byte of it, and decrypts it. With the recovery key it also gives the keyring of
/// then. Blocks.
///
/// # Errors
/// What is wrong with it: damaged, of another key, or by a version that writes otherwise.
pub fn open(bytes: &[u8], key: Key<'_>) -> Result<(Header, Opened, Option<Keyring>), String> {
    let size = bytes.len();
    let (body, digest) =
        bytes.split_at_checked(size.saturating_sub(DIGEST)).ok_or("it is cut off".to_owned())?;
    let mut rest = body;
    let (header, head) = begin(&mut rest)?;
    if sha2::Sha256::digest(body)[..] != *digest {
        return Err(format!("it is damaged, or cut off after {size} bytes: its digest does not match"));
    }
    let lock: Lock =
        codec::decode(part(&mut rest)?, PART_MAX).map_err(|error| format!("its lock: {error}"))?;
    let length = number::<8>(&mut rest)?;
    if length != rest.len() {
        return Err(format!("{length} bytes of content should follow, {} do", rest.len()));
    }
    let sealed = Sealed { kek: lock.kek, wrapped_key: lock.wrapped_key, content: rest.to_vec() };
    let locked = Locked { sealed, escrow: lock.escrow };
    let (small, keyring) = match key {
        Key::Keyring(keyring) => (keyring.open(&locked.sealed, &aad(head)), None),
        Key::Recovery(recovery) => match recovery.open(&locked, &aad(head)) {
            Ok((small, keyring)) => (Ok(small), Some(keyring)),
            Err(error) => (Err(error), None),
        },
    };
    let small = small.map_err(|error| error.to_string())?;
    let opened = unpack(&header, &small)?;
    Ok((header, opened, keyring))
}

/// Reads what was decrypted, and compares it with what the header announces.
fn unpack(header: &Header, small: &[u8]) -> Result<Opened, String> {
    let mut plain = Vec::new();
    let limit = DECODE_MAX as u64 + 1;
    ZlibDecoder::new(small)
        .take(limit)
        .read_to_end(&mut plain)
        .map_err(|error| format!("it cannot be unpacked: {error}"))?;
    let version = &header.version;
    let unreadable =
        |error| format!("this version cannot read it (it was made by version {version}): {error}");
    match &header.kind {
        Kind::State { digest } => {
            let state = ClusterState::decode(&plain).map_err(unreadable)?;
            let found: [u8; 32] = sha2::Sha256::digest(&plain).into();
            if found != digest.0 || state.revision() != header.revision {
                return Err("the state in it is not the one that its header announces".to_owned());
            }
            Ok(Opened::State(Box::new(state)))
        }
        Kind::Log { first } => {
            let segment: Segment = codec::decode(&plain, DECODE_MAX).map_err(unreadable)?;
            if !segment.indices().eq(*first..=header.revision.index) {
                return Err("the entries in it are not those that its header announces".to_owned());
            }
            Ok(Opened::Log(segment))
        }
    }
}

/// See [`crate::fuzz`]: a file as it is found, one whose digest is right, and what stands inside one.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    use std::sync::LazyLock;

    static KEYS: LazyLock<(Keyring, RecoveryKey)> = LazyLock::new(|| {
        (Keyring::create().expect("a keyring"), RecoveryKey::generate().expect("a recovery key"))
    });
    let (keyring, recovery) = &*KEYS;
    let digest = sha2::Sha256::digest(bytes);
    for bytes in [bytes, &[bytes, &digest].concat(), &[&MAGIC, bytes].concat()] {
        let _ = peek(bytes);
        for key in [Key::Keyring(keyring), Key::Recovery(recovery)] {
            assert!(open(bytes, key).is_err(), "a file that nobody has sealed is opened");
        }
    }
    let mut small = ZlibEncoder::new(Vec::new(), Compression::none());
    let small = small.write_all(bytes).and_then(|()| small.finish()).expect("compressed into memory");
    for kind in [Kind::State { digest: Digest(digest.into()) }, Kind::Log { first: 1 }] {
        let header = Header {
            kind,
            cluster: ClusterId([1; 16]),
            name: "lab".parse().expect("a name"),
            revision: Revision { lineage: 1, index: 1 },
            time: Timestamp(1),
            made_at: Timestamp(1),
            made_by: NodeId(1),
            version: String::new(),
        };
        for small in [bytes, &small] {
            if let Ok(Opened::Log(segment)) = unpack(&header, small) {
                assert_eq!(segment.into_entries().count(), 1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use pangolin_core::{
        Actor, Cause, Command, Fence,
        command::{Body, ClusterCreated},
        record::{Authority, NodeRole, NodeSpec, Settings, TunnelKey},
    };
    use proptest::prelude::*;

    use super::*;

    fn state() -> ClusterState {
        let sealed = Sealed { kek: 1, wrapped_key: vec![1], content: vec![2] };
        let authority = Authority { certificate: vec![3; 300], key: sealed };
        let created = ClusterCreated {
            id: ClusterId([1; 16]),
            name: "lab".parse().expect("a name"),
            authority: authority.clone(),
            issuer: authority,
            settings: Settings {
                zone: "lab.example".parse().expect("a zone"),
                control_host: "control.lab.example".parse().expect("a host"),
                tunnel_network: "100.89.0.0/16".parse().expect("a network"),
                ttl: 30,
            },
            node: NodeId(1),
            spec: NodeSpec {
                name: "n1".parse().expect("a name"),
                role: NodeRole::Data,
                peer_address: ([127, 0, 0, 1], 7420).into(),
                spki: Digest([1; 32]),
                public_addresses: vec![],
                https_port: 443,
                tunnel_endpoint: "127.0.0.1:51820".into(),
                tunnel_key: TunnelKey([1; 32]),
                region: None,
                version: "1".into(),
                feature_level: pangolin_core::feature::NEWEST,
            },
        };
        let mut state = ClusterState::default();
        let body = Body::ClusterCreated(Box::new(created));
        let cause = Cause::new(Actor::Node(NodeId(1)), "init");
        state.apply(2, &Command { request: None, at: Timestamp(5), cause, fence: Fence::None, body });
        state
    }

    fn header(state: &ClusterState, kind: Kind) -> Header {
        Header {
            kind,
            cluster: ClusterId([1; 16]),
            name: "lab".parse().expect("a name"),
            revision: state.revision(),
            time: state.time(),
            made_at: Timestamp(9),
            made_by: NodeId(1),
            version: "0.1.0".into(),
        }
    }

    fn segment(first: u64, last: u64) -> Segment {
        let mut segment = Segment::default();
        for index in first..=last {
            segment.push(&Entry { id: LogId { term: 1, index }, body: vec![7; 20].into() });
        }
        segment
    }

    struct Keys {
        keyring: Keyring,
        recovery: RecoveryKey,
    }

    fn keys() -> Keys {
        Keys {
            keyring: Keyring::create().expect("a keyring"),
            recovery: RecoveryKey::generate().expect("a recovery key"),
        }
    }

    fn sealed(keys: &Keys) -> (ClusterState, Vec<u8>) {
        let state = state();
        let header = header(&state, Kind::State { digest: state.digest().expect("a digest") });
        let public = keys.recovery.public();
        let bytes = seal(&header, Content::State(&state), &keys.keyring, Some(&public)).expect("sealed");
        (state, bytes)
    }

    #[test]
    fn both_keys_open_a_state_and_the_recovery_key_gives_the_keyring_as_well() {
        let keys = keys();
        let (state, bytes) = sealed(&keys);
        assert_eq!(peek(&bytes).expect("a header").file_name(), "state-0001-000000000002.pgb");
        let (_, by_keyring, none) = open(&bytes, Key::Keyring(&keys.keyring)).expect("opened");
        let (_, by_recovery, keyring) = open(&bytes, Key::Recovery(&keys.recovery)).expect("opened");
        for opened in [by_keyring, by_recovery] {
            let Opened::State(found) = opened else { panic!("no state") };
            assert_eq!(*found, state);
        }
        assert!(none.is_none());
        assert_eq!(keyring, Some(keys.keyring));
    }

    #[test]
    fn a_segment_comes_back_in_order_and_one_with_a_gap_is_refused() {
        let keys = keys();
        let mut state = state();
        state.advance(7);
        let whole = segment(4, 7);
        let log = header(&state, Kind::Log { first: 4 });
        let bytes = seal(&log, Content::Log(&whole), &keys.keyring, None).expect("sealed");
        let (_, Opened::Log(found), _) = open(&bytes, Key::Keyring(&keys.keyring)).expect("opened") else {
            panic!("no segment")
        };
        assert_eq!(found, whole);
        let short = seal(&log, Content::Log(&segment(4, 6)), &keys.keyring, None).expect("sealed");
        assert!(open(&short, Key::Keyring(&keys.keyring)).expect_err("refused").contains("announces"));
        let error = open(&bytes, Key::Recovery(&keys.recovery)).expect_err("refused");
        assert!(error.contains("not encrypted to a recovery key"), "{error}");
    }

    #[test]
    fn another_clusters_keys_open_nothing_and_a_header_cannot_be_exchanged() {
        let (mine, other) = (keys(), keys());
        let (state, bytes) = sealed(&mine);
        assert!(open(&bytes, Key::Keyring(&other.keyring)).is_err());
        let error = open(&bytes, Key::Recovery(&other.recovery)).expect_err("refused");
        assert!(error.contains("the one given is"), "{error}");
        // The same content under a header that promises another time.
        let digest = state.digest().expect("a digest");
        let head = codec::encode(&header(&state, Kind::State { digest })).expect("encoded");
        let false_header = Header { time: Timestamp(99), ..header(&state, Kind::State { digest }) };
        let false_head = codec::encode(&false_header).expect("encoded");
        let mut forged = MAGIC.to_vec();
        forged.extend(u32::try_from(false_head.len()).expect("short").to_le_bytes());
        forged.extend(&false_head);
        forged.extend(&bytes[MAGIC.len() + 4 + head.len()..bytes.len() - DIGEST]);
        let digest = sha2::Sha256::digest(&forged);
        forged.extend(digest);
        let error = open(&forged, Key::Keyring(&mine.keyring)).expect_err("refused");
        assert!(error.contains("refused"), "{error}");
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_an_error() {
        let keys = keys();
        let (_, bytes) = sealed(&keys);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(open(&flipped, Key::Keyring(&keys.keyring)).is_err(), "byte {at} flipped");
            assert!(open(&bytes[..at], Key::Keyring(&keys.keyring)).is_err(), "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            for begin in [&[][..], &MAGIC, &[&MAGIC[..], &[20, 0, 0, 0, codec::FORMAT]].concat()] {
                fuzz(&[begin, &bytes].concat());
            }
        }
    }
}
