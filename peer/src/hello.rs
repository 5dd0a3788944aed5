//! The first words on every connection between nodes: who speaks to whom, in which history and version.
//!
//! Pure, except for the two functions that read and write the framed text. Fields that a later version appends
//! are skipped, so that N and N-1 understand each other.

use std::io;

use bytes::{Buf, BufMut as _};
use pangolin_core::{
    feature::{self, FeatureLevel},
    id::{ClusterId, NodeId},
    plan::PeerPlan,
    record::Digest,
    time::Timestamp,
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::clock::wall_now;

/// The version of the streams that this program speaks best.
pub(crate) const VERSION: u16 = if cfg!(pangolin_next) { 2 } else { 1 };

/// The oldest one that it still speaks: the one before [`VERSION`], once there is one.
pub(crate) const OLDEST: u16 = 1;

/// Longest hello or answer.
const LENGTH_MAX: usize = 1024;

/// Longest reason in a refusal.
const REASON_MAX: usize = 500;

/// Words of the refusal by which a node learns that the other does not count it among the members. Part of the
/// protocol: other versions look for them.
pub(crate) const NO_MEMBER: &str = "is not a member";

/// Words of the refusal by which a node learns that a new history has begun without it. Part of the protocol, as
/// above.
pub(crate) const SUPERSEDED: &str = "has begun a new lineage";

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    Control,
    Bulk,
}

/// Who somebody is, as far as both sides of a connection have to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) cluster: ClusterId,
    pub(crate) lineage: u64,
    pub(crate) node: NodeId,
}

/// What the dialling side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) newest: u16,
    pub(crate) oldest: u16,
    pub(crate) from: Party,
    /// Whom it wants to reach: an address may meanwhile belong to another node.
    pub(crate) to: NodeId,
    pub(crate) lane: Lane,
    pub(crate) program: Program,
}

/// What either side says about its program and host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Program {
    /// Highest feature level that it understands.
    pub(crate) level: FeatureLevel,
    /// Its wall clock at that moment.
    pub(crate) clock: Timestamp,
}

impl Program {
    /// This one, now.
    pub(crate) fn own() -> Self {
        Self { level: feature::NEWEST, clock: wall_now() }
    }

    fn encode(self, out: &mut Vec<u8>) {
        out.put_u32(self.level.0);
        out.put_u64(self.clock.0);
    }

    fn decode(bytes: &mut &[u8]) -> Option<Self> {
        let level = FeatureLevel(bytes.try_get_u32().ok()?);
        Some(Self { level, clock: Timestamp(bytes.try_get_u64().ok()?) })
    }

    /// Whether it can take part in what the plan is committed to. No other program is sent the log.
    pub(crate) fn check(self, plan: &PeerPlan, node: NodeId) -> Result<(), String> {
        if self.level >= plan.feature_level {
            return Ok(());
        }
        Err(format!(
            "the cluster is at feature level {}, the program of node {node} understands up to {}: install the version \
             that the other nodes run",
            plan.feature_level, self.level
        ))
    }
}

impl Hello {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        out.put_u16(self.newest);
        out.put_u16(self.oldest);
        out.put_slice(&self.from.cluster.0);
        out.put_u64(self.from.lineage);
        out.put_u64(self.from.node.0);
        out.put_u64(self.to.0);
        out.put_u8(match self.lane {
            Lane::Control => 1,
            Lane::Bulk => 2,
        });
        self.program.encode(&mut out);
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let (newest, oldest) = (bytes.try_get_u16().ok()?, bytes.try_get_u16().ok()?);
        let from = party(&mut bytes)?;
        let to = NodeId(bytes.try_get_u64().ok()?);
        let lane = match bytes.try_get_u8().ok()? {
            1 => Lane::Control,
            2 => Lane::Bulk,
            _ => return None,
        };
        let program = Program::decode(&mut bytes)?;
        Some(Self { newest, oldest, from, to, lane, program })
    }
}

fn party(bytes: &mut &[u8]) -> Option<Party> {
    let mut cluster = [0; 16];
    bytes.try_copy_to_slice(&mut cluster).ok()?;
    let (lineage, node) = (bytes.try_get_u64().ok()?, bytes.try_get_u64().ok()?);
    Some(Party { cluster: ClusterId(cluster), lineage, node: NodeId(node) })
}

/// What the accepting side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Welcome {
    /// The version that both speak.
    pub(crate) version: u16,
    pub(crate) program: Program,
}

/// The answer: welcome, or why not.
pub(crate) type Answer = Result<Welcome, String>;

pub(crate) fn encode_answer(answer: &Answer) -> Vec<u8> {
    let mut out = Vec::new();
    match answer {
        Ok(welcome) => {
            out.put_u8(0);
            out.put_u16(welcome.version);
            welcome.program.encode(&mut out);
        }
        Err(reason) => {
            out.put_u8(1);
            let cut = reason.floor_char_boundary(REASON_MAX.min(reason.len()));
            out.put_u16(u16::try_from(cut).unwrap_or_default());
            out.put_slice(&reason.as_bytes()[..cut]);
        }
    }
    out
}

pub(crate) fn decode_answer(mut bytes: &[u8]) -> Option<Answer> {
    match bytes.try_get_u8().ok()? {
        0 => {
            let version = bytes.try_get_u16().ok()?;
            Some(Ok(Welcome { version, program: Program::decode(&mut bytes)? }))
        }
        1 => {
            let length = usize::from(bytes.try_get_u16().ok()?);
            let reason = bytes.get(..length.min(REASON_MAX))?;
            let reason: String =
                String::from_utf8_lossy(reason).chars().filter(|c| !c.is_control()).collect();
            Some(Err(reason))
        }
        _ => None,
    }
}

/// The highest version that both sides speak.
fn negotiate(hello: &Hello) -> Result<u16, String> {
    let version = hello.newest.min(VERSION);
    if version < OLDEST || version < hello.oldest {
        return Err(format!(
            "protocol versions {}-{} and {OLDEST}-{VERSION} have nothing in common; upgrade one release at a time",
            hello.oldest, hello.newest
        ));
    }
    Ok(version)
}

/// Whether a node that is not in the plan may have joined since the plan was made. Its certificate, which TLS has
/// checked, says that the cluster's authority made it the node that it claims to be, and ids are never used again. It
/// may bring the log and nothing else: after that, the plan says whether it is a member.
pub(crate) fn is_newer(plan: &PeerPlan, node: NodeId) -> bool {
    node.0 > plan.known_until && !plan.nodes.contains_key(&node)
}

/// Whether `me` talks to the node that said `hello` and whose certificate's key has the digest `spki`: the one
/// place that decides who is let in. The answer is the version that both speak.
pub(crate) fn judge(me: &Party, plan: &PeerPlan, hello: &Hello, spki: &Digest) -> Result<u16, String> {
    let from = &hello.from;
    if from.cluster != me.cluster {
        return Err(format!("this is cluster {}, not {}", me.cluster, from.cluster));
    }
    if hello.to != me.node {
        return Err(format!("this is node {}, not {}", me.node, hello.to));
    }
    if from.node == me.node {
        return Err(format!("this is node {} itself; two programs run with one identity", me.node));
    }
    if from.lineage != me.lineage {
        return Err(refuse_lineage(me.lineage, from.lineage));
    }
    if plan.nodes.is_empty() {
        return Err("this node does not know the members yet".to_owned());
    }
    match plan.nodes.get(&from.node) {
        None if is_newer(plan, from.node) => {
            hello.program.check(plan, from.node)?;
            negotiate(hello)
        }
        None => Err(format!("node {} {NO_MEMBER}: removed, or not known here yet", from.node)),
        Some(peer) if peer.spki != *spki => {
            Err(format!("the certificate is not the one that node {} was admitted with", from.node))
        }
        Some(_) => {
            hello.program.check(plan, from.node)?;
            negotiate(hello)
        }
    }
}

/// After a forced recovery nobody of the old history talks to anybody of the new one.
fn refuse_lineage(mine: u64, theirs: u64) -> String {
    if theirs < mine {
        return format!(
            "the cluster {SUPERSEDED}, {mine}, and this node is still in {theirs}: it was left behind by a forced \
             recovery; move its state directory out of the way and join the cluster anew with a new token"
        );
    }
    format!(
        "the node that was asked is in lineage {mine}, the one that asks in {theirs}: it has yet to rejoin"
    )
}

/// Writes a text with its length before it.
pub(crate) async fn write_text(io: &mut (impl AsyncWrite + Unpin), text: &[u8]) -> io::Result<()> {
    let length = u16::try_from(text.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    io.write_all(&[&length.to_be_bytes(), text].concat()).await?;
    io.flush().await
}

/// Reads a text with its length before it.
pub(crate) async fn read_text(io: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::from(io.read_u16().await?);
    if length > LENGTH_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the hello is too long"));
    }
    let mut text = vec![0; length];
    io.read_exact(&mut text).await?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use pangolin_core::plan::PlannedPeer;
    use proptest::prelude::*;

    use super::*;

    const SPKI: Digest = Digest([3; 32]);

    fn me() -> Party {
        Party { cluster: ClusterId([1; 16]), lineage: 2, node: NodeId(1) }
    }

    fn plan() -> PeerPlan {
        let peer = |last: u8| PlannedPeer {
            name: format!("n{last}"),
            address: ([127, 0, 0, last], 7420).into(),
            spki: SPKI,
        };
        let nodes = [(NodeId(1), peer(1)), (NodeId(5), peer(5))].into();
        let (cluster, feature_level) = (Some(me().cluster), FeatureLevel(1));
        PeerPlan { cluster, lineage: 2, feature_level, known_until: 7, nodes }
    }

    fn hello() -> Hello {
        let from = Party { node: NodeId(5), ..me() };
        let program = Program { level: FeatureLevel(1), clock: Timestamp(7) };
        Hello { newest: VERSION, oldest: OLDEST, from, to: NodeId(1), lane: Lane::Control, program }
    }

    #[test]
    fn a_member_with_its_own_certificate_is_let_in() {
        assert_eq!(judge(&me(), &plan(), &hello(), &SPKI), Ok(VERSION));
    }

    #[test]
    fn a_node_that_joined_after_what_is_known_here_is_let_in_as_well() {
        let newer = Hello { from: Party { node: NodeId(8), ..me() }, ..hello() };
        assert_eq!(judge(&me(), &plan(), &newer, &Digest([4; 32])), Ok(VERSION));
        assert!(
            is_newer(&plan(), NodeId(8)) && !is_newer(&plan(), NodeId(7)) && !is_newer(&plan(), NodeId(5))
        );
    }

    #[test]
    fn everybody_else_is_told_why_not() {
        let strange = Hello { from: Party { node: NodeId(6), ..me() }, ..hello() };
        let own = Hello { from: me(), ..hello() };
        let cluster = Hello { from: Party { cluster: ClusterId([9; 16]), ..hello().from }, ..hello() };
        let lineage = Hello { from: Party { lineage: 1, ..hello().from }, ..hello() };
        let ahead = Hello { from: Party { lineage: 3, ..hello().from }, ..hello() };
        let misled = Hello { to: NodeId(7), ..hello() };
        let future = Hello { newest: 9, oldest: 8, ..hello() };
        let past = Hello { newest: 0, oldest: 0, ..hello() };
        for (hello, word) in [
            (strange, "not a member"),
            (own, "one identity"),
            (cluster, "this is cluster"),
            (lineage, "has begun a new lineage, 2, and this node is still in 1"),
            (ahead, "in lineage 2, the one that asks in 3"),
            (misled, "this is node 1"),
            (future, "nothing in common"),
            (past, "nothing in common"),
        ] {
            let reason = judge(&me(), &plan(), &hello, &SPKI).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
        let reason = judge(&me(), &plan(), &hello(), &Digest([4; 32])).unwrap_err();
        assert!(reason.contains("certificate"), "{reason}");
        assert!(judge(&me(), &PeerPlan::default(), &hello(), &SPKI).unwrap_err().contains("yet"));
    }

    #[test]
    fn a_program_that_does_not_understand_the_committed_level_is_kept_out() {
        let raised = PeerPlan { feature_level: FeatureLevel(2), ..plan() };
        let reason = judge(&me(), &raised, &hello(), &SPKI).unwrap_err();
        assert!(reason.contains("feature level 2") && reason.contains("install"), "{reason}");
        let newer = Hello { program: Program { level: FeatureLevel(3), ..hello().program }, ..hello() };
        assert_eq!(judge(&me(), &raised, &newer, &SPKI), Ok(VERSION));
    }

    #[test]
    fn fields_of_a_later_version_are_skipped() {
        let mut bytes = hello().encode();
        bytes.extend(b"more");
        assert_eq!(Hello::decode(&bytes), Some(hello()));
        let newer = Hello { newest: VERSION + 1, oldest: VERSION, ..hello() };
        assert_eq!(judge(&me(), &plan(), &newer, &SPKI), Ok(VERSION));
    }

    #[test]
    fn long_reasons_are_cut_at_a_character() {
        let answer: Answer = Err("ä".repeat(400));
        let Some(Err(reason)) = decode_answer(&encode_answer(&answer)) else { panic!() };
        assert_eq!(reason, "ä".repeat(250));
        let welcome = Welcome { version: 1, program: hello().program };
        assert_eq!(decode_answer(&encode_answer(&Ok(welcome))), Some(Ok(welcome)));
        let longer = [encode_answer(&Ok(welcome)), b"more".to_vec()].concat();
        assert_eq!(decode_answer(&longer), Some(Ok(welcome)));
    }

    proptest! {
        #[test]
        fn random_hellos_and_answers_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (Hello::decode(&bytes), decode_answer(&bytes));
        }
    }
}
