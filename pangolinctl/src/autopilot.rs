//! `pangolinctl autopilot`: how the cluster looks after its voters by itself.

use std::time::Duration;

use clap::{Args, Subcommand};
use pangolin_wire::Autopilot;

use crate::{args::duration, failure::Failure, print, session::Session};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Show the settings
    Show,
    /// Change settings; what is not named stays
    Set(Set),
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// How long a learner has to be in contact and caught up before it votes
    #[arg(long, value_parser = duration, value_name = "TIME")]
    stable: Option<Duration>,
    /// After what time a learner takes the place of a voter that is down, or \"never\"
    #[arg(long, value_parser = patience, value_name = "TIME")]
    exchange_after: Option<Patience>,
    /// After what time a node that is down is taken out of the cluster, or \"never\"; only if the others stand another
    /// failure without it
    #[arg(long, value_parser = patience, value_name = "TIME")]
    remove_after: Option<Patience>,
}

/// A time, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Patience(Option<u32>);

fn patience(text: &str) -> Result<Patience, String> {
    if text == "never" {
        return Ok(Patience(None));
    }
    let seconds = u32::try_from(duration(text)?.as_secs()).map_err(|_| format!("{text} is too long"))?;
    Ok(Patience(Some(seconds)))
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    let known = session.get("/cluster/autopilot").await?;
    let answer = match verb {
        Verb::Show => known,
        Verb::Set(set) => {
            let mut wanted: Autopilot = session.parse(&known)?;
            if let Some(stable) = set.stable {
                wanted.stable_milliseconds = u32::try_from(stable.as_millis())
                    .map_err(|_| Failure::usage("the time that a learner is watched is too long"))?;
            }
            if let Some(Patience(seconds)) = set.exchange_after {
                wanted.exchange_after_seconds = seconds;
            }
            if let Some(Patience(seconds)) = set.remove_after {
                wanted.remove_after_seconds = seconds;
            }
            session.post("/cluster/autopilot", &wanted).await?
        }
    };
    session.show(&answer, |autopilot: Autopilot| {
        let after =
            |seconds: Option<u32>| seconds.map_or("never".to_owned(), |s| format!("after {s} s down"));
        print::pairs([
            ("learners vote", format!("after {} ms in contact and caught up", autopilot.stable_milliseconds)),
            ("voters are exchanged", after(autopilot.exchange_after_seconds)),
            ("nodes are removed", after(autopilot.remove_after_seconds)),
        ])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_is_a_time_or_never() {
        assert_eq!(patience("never"), Ok(Patience(None)));
        assert_eq!(patience("24h"), Ok(Patience(Some(86_400))));
        assert!(patience("soon").is_err() && patience("99999d").is_err());
    }
}
