//! Which fault comes when: first each once and one at a time, then, in longer runs, several at a time.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use tokio::time::sleep;

use super::{profile::Shape, say};
use crate::{
    chance::Chance,
    faults::{Begun, Fault, Kind},
    history::{Fault as Noted, What},
    testbed::bed::Bed,
};

/// How long a fault is held, about.
const HOLD: Duration = Duration::from_secs(4);
/// How long a single dead node stays away: it has to be gone from DNS before it is back.
const HOLD_DEAD: Duration = Duration::from_secs(9);
/// How much longer at most on a machine that is busy.
const HOLD_DEAD_MORE: Duration = Duration::from_secs(20);
/// Longest and shortest time that a node stands still.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(20));
/// How much longer than it was to be held a fault is waited for to take effect.
const SHOW_PATIENCE: Duration = Duration::from_secs(10);
/// How long the cluster may take to become whole between two faults; if it does not, the next one comes anyway.
const WHOLE_PATIENCE: Duration = Duration::from_secs(45);
/// How much longer at most on a machine that is busy.
const WHOLE_MORE: Duration = Duration::from_secs(60);
/// How often the nodes are looked after.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a service manager waits before it starts a node again.
const RESTART_AFTER: Duration = Duration::from_secs(1);
/// Most faults at a time.
const AT_ONCE: usize = 3;
/// Pause between two beginnings, while faults overlap.
const BETWEEN: Duration = Duration::from_secs(4);

/// What is to be played.
pub(super) struct Plan<'a> {
    pub(super) kinds: &'a [&'static Kind],
    pub(super) shape: &'a Shape,
    pub(super) lasts: Duration,
}

/// A fault under way.
struct Active {
    kind: &'static Kind,
    name: u64,
    fault: Box<dyn Fault>,
    begun: Begun,
    began: Instant,
    hold: Duration,
    /// When it was seen to have taken effect.
    shown: Option<Instant>,
}

/// Starts nodes again that have ended by themselves, as a service manager does.
#[derive(Default)]
struct Caretaker {
    due: BTreeMap<usize, Instant>,
}

/// Plays it to its end; afterwards no fault is left, and every member runs. What could not be done is told.
pub(super) async fn play(plan: &Plan<'_>, chance: &mut Chance, bed: &mut Bed, problems: &mut Vec<String>) {
    let end = Instant::now() + plan.lasts;
    let mut order = plan.kinds.to_vec();
    chance.shuffle(&mut order);
    let mut caretaker = Caretaker::default();
    let mut left = Vec::new();
    for (number, kind) in order.iter().enumerate() {
        if Instant::now() >= end {
            left = order[number..].iter().map(|kind| kind.name).collect();
            break;
        }
        say(&format!("[{}/{}] {}: {}", number + 1, order.len(), kind.name, kind.says));
        if let Err(error) = alone(kind, chance, bed, &mut caretaker).await {
            problems.push(format!("{}: {error:#}", kind.name));
            tidy(bed, problems).await;
        }
    }
    if !left.is_empty() {
        problems.push(format!("there was no time for: {}", left.join(", ")));
    }
    if plan.shape.overlaps {
        overlapping(plan, end, chance, bed, &mut caretaker, problems).await;
    }
    tidy(bed, problems).await;
}

/// One fault, from a whole cluster to a whole cluster.
async fn alone(
    kind: &'static Kind,
    chance: &mut Chance,
    bed: &mut Bed,
    caretaker: &mut Caretaker,
) -> Result<()> {
    let Some(mut active) = begin(kind, chance, bed).await? else {
        bed.recorder.note(format!("{} is not possible now", kind.name));
        return Ok(());
    };
    while !active.is_over(bed) {
        active.look(bed)?;
        caretaker.look(bed, std::slice::from_ref(&active))?;
        sleep(LOOK_EVERY).await;
    }
    end(active, bed).await?;
    let ended = Instant::now();
    while let Err(problem) = bed.healthy(LOOK_EVERY).await {
        caretaker.look(bed, &[])?;
        let waited = ended.elapsed();
        if waited >= WHOLE_PATIENCE + bed.recorder.excused(waited).min(WHOLE_MORE) {
            return Err(problem.context("the cluster is not whole afterwards"));
        }
    }
    Ok(())
}

async fn begin(kind: &'static Kind, chance: &mut Chance, bed: &mut Bed) -> Result<Option<Active>> {
    let mut fault = kind.make(chance);
    let hold = hold(kind.name, chance);
    let name = bed.recorder.name();
    let begun = fault.begin(name, bed).await.context("beginning")?;
    Ok(begun.map(|begun| Active { kind, name, fault, begun, began: Instant::now(), hold, shown: None }))
}

fn hold(kind: &str, chance: &mut Chance) -> Duration {
    match kind {
        "kill-leader" | "kill-random" => HOLD_DEAD,
        "pause-leader" | "pause-random" => PAUSE.0 + (PAUSE.1 - PAUSE.0).mul_f64(chance.share()),
        // They take their time by themselves.
        "rolling-restart" | "membership" | "lost-tail" => Duration::from_secs(1),
        _ => chance.about(HOLD),
    }
}

impl Active {
    /// Long enough in effect, or given up.
    fn is_over(&self, bed: &Bed) -> bool {
        match self.shown {
            Some(shown) if self.hold == HOLD_DEAD => {
                let held = shown.elapsed();
                held >= self.hold + bed.recorder.excused(held).min(HOLD_DEAD_MORE)
            }
            Some(shown) => shown.elapsed() >= self.hold,
            None => self.began.elapsed() >= self.hold + SHOW_PATIENCE,
        }
    }

    /// Notes the fault once it is seen to have taken effect.
    fn look(&mut self, bed: &mut Bed) -> Result<()> {
        if self.shown.is_none()
            && let Some(evidence) = self.fault.shown(bed)?
        {
            self.shown = Some(Instant::now());
            let detail = format!("{}: {evidence}", self.begun.detail);
            say(&format!("    {detail}"));
            let (kind, nodes) = (self.kind.name.to_owned(), bed.ids(&self.begun.hit));
            bed.recorder.push(What::FaultStarted(Noted { fault: self.name, kind, nodes, detail }));
        }
        Ok(())
    }
}

async fn end(mut active: Active, bed: &mut Bed) -> Result<()> {
    active.look(bed)?;
    let ended = active.fault.end(bed).await.context("ending");
    if active.shown.is_some() {
        bed.recorder.push(What::FaultEnded { fault: active.name });
    } else {
        let text = format!("{} ({}) never took effect", active.kind.name, active.begun.detail);
        say(&format!("    {text}"));
        bed.recorder.note(text);
    }
    ended
}

impl Caretaker {
    /// Notes who has ended by itself, and starts it again after a moment.
    fn look(&mut self, bed: &mut Bed, active: &[Active]) -> Result<()> {
        for (position, status) in bed.reap() {
            self.due.insert(position, Instant::now() + RESTART_AFTER);
            let text = format!("it ended by itself with {status}");
            match bed.id(position) {
                Ok(node) if !active.iter().any(|active| active.fault.may_end(position)) => {
                    say(&format!("    {}: {text}", bed.names(&[position])));
                    bed.recorder.push(What::Wrong { node, text });
                }
                _ => bed.recorder.note(format!("{}: {text}", bed.names(&[position]))),
            }
        }
        let due: Vec<usize> =
            self.due.iter().filter(|(_, due)| **due <= Instant::now()).map(|(node, _)| *node).collect();
        for position in due {
            self.due.remove(&position);
            let wanted = bed.id(position).is_ok() && !bed.held.contains(&position);
            if wanted && !bed.cluster.nodes[position].runs() {
                bed.start(position)?;
            }
        }
        Ok(())
    }
}

/// Faults come and go, several at a time; those that need the others whole come in between.
async fn overlapping(
    plan: &Plan<'_>,
    until: Instant,
    chance: &mut Chance,
    bed: &mut Bed,
    caretaker: &mut Caretaker,
    problems: &mut Vec<String>,
) {
    let mut active: Vec<Active> = Vec::new();
    let mut next = Instant::now();
    let mut wanted: Option<&'static Kind> = None;
    while Instant::now() < until {
        let outcome = turn(plan, chance, bed, caretaker, &mut active, &mut next, &mut wanted).await;
        if let Err(error) = outcome {
            problems.push(format!("{error:#}"));
            end_all(&mut active, bed, problems).await;
            tidy(bed, problems).await;
        }
        sleep(LOOK_EVERY).await;
    }
    end_all(&mut active, bed, problems).await;
}

async fn turn(
    plan: &Plan<'_>,
    chance: &mut Chance,
    bed: &mut Bed,
    caretaker: &mut Caretaker,
    active: &mut Vec<Active>,
    next: &mut Instant,
    wanted: &mut Option<&'static Kind>,
) -> Result<()> {
    for one in active.iter_mut() {
        one.look(bed)?;
    }
    caretaker.look(bed, active)?;
    while let Some(over) = active.iter().position(|one| one.is_over(bed)) {
        let over = active.remove(over);
        let name = over.kind.name;
        end(over, bed).await.context(name)?;
    }
    if Instant::now() < *next || active.len() >= AT_ONCE {
        return Ok(());
    }
    let Some(kind) = wanted.or_else(|| chance.one_of(plan.kinds).copied()) else { return Ok(()) };
    if kind.alone && !active.is_empty() {
        // It waits for the others to end; none begins before it.
        *wanted = Some(kind);
        return Ok(());
    }
    *wanted = None;
    if kind.alone {
        bed.healthy(WHOLE_PATIENCE).await.context(kind.name)?;
        alone(kind, chance, bed, caretaker).await.context(kind.name)?;
    } else if !active.iter().any(|other| other.kind.name == kind.name)
        && let Some(begun) = begin(kind, chance, bed).await.context(kind.name)?
    {
        say(&format!("{} ({} at a time)", kind.name, active.len() + 1));
        active.push(begun);
    }
    *next = Instant::now() + chance.about(BETWEEN);
    Ok(())
}

async fn end_all(active: &mut Vec<Active>, bed: &mut Bed, problems: &mut Vec<String>) {
    for one in active.drain(..) {
        let name = one.kind.name;
        if let Err(error) = end(one, bed).await {
            problems.push(format!("{name}: {error:#}"));
        }
    }
}

/// Brings back whatever a fault that broke off may have left behind.
async fn tidy(bed: &mut Bed, problems: &mut Vec<String>) {
    bed.held.clear();
    for position in bed.members() {
        let _ = bed.controls[position].fail_syncs(None);
        let _ = bed.controls[position].delay_syncs(Duration::ZERO);
        let _ = bed.controls[position].shift_clock(0);
        if let Some(process) = bed.cluster.nodes[position].process() {
            process.thaw();
        } else if let Err(error) = bed.start(position) {
            problems.push(format!("{}: {error:#}", bed.names(&[position])));
        }
    }
    // Those that are whole go on at once.
    let _ = bed.healthy(WHOLE_PATIENCE).await;
}
