//! `pangolinctl events`.

use std::time::Duration;

use clap::Args;
use pangolin_wire::{Event, EventPage, PAGE_MAX};
use serde::Serialize;
use serde_json::json;

use crate::{failure::Failure, print, session::Session};

/// Pause before a node that does not answer is asked again with `--follow`.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Seconds that a node may wait for the next event before it says that there is none.
const WAIT: u64 = 5;

#[derive(Debug, Args)]
#[command(
    after_help = "Every decision of the cluster, and every change by an operator, is one event; every node \
tells the same. Each line ends with who decided it and why; `because` names the earlier events that led to it."
)]
pub(crate) struct Events {
    /// How many of the newest events to show
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N", conflicts_with = "since",
          value_parser = clap::value_parser!(u16).range(1..=PAGE_MAX as i64))]
    limit: u16,
    /// Show all events behind this place in the log, INDEX or LINEAGE.INDEX; 0 = all that are kept
    #[arg(long, value_name = "INDEX")]
    since: Option<String>,
    /// Go on with what is decided from now on, until interrupted; goes on at the same place after a node was away
    #[arg(long, short)]
    follow: bool,
    /// The same as --output json: one event to a line
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(session: &Session, args: &Events) -> Result<(), Failure> {
    let json = args.json || session.is_json();
    let mut page: EventPage = match &args.since {
        None => fetch(session, &format!("/events?limit={}", args.limit)).await?,
        Some(since) => fetch(session, &behind(since, 0)?).await?,
    };
    let mut away = false;
    loop {
        show(&page, json)?;
        if !page.more && !args.follow {
            return Ok(());
        }
        let wait = if page.more { 0 } else { WAIT };
        match fetch(session, &behind(&page.next.to_string(), wait)?).await {
            Ok(next) => (page, away) = (next, false),
            Err(failure) if !args.follow => return Err(failure),
            // The same place is known on every node: what is decided meanwhile comes then.
            Err(failure) => {
                if !away {
                    print::remark(&format!("{}\nTrying again …", failure.message()));
                }
                (page.events, page.missing_up_to, away) = (Vec::new(), None, true);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

async fn fetch(session: &Session, path: &str) -> Result<EventPage, Failure> {
    session.parse(&session.get(path).await?)
}

fn behind(since: &str, wait: u64) -> Result<String, Failure> {
    if since.is_empty() || !since.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(Failure::usage(format!(
            "{since:?} is no place in the log: it is INDEX or LINEAGE.INDEX, for example 912 or 1.912"
        )));
    }
    Ok(format!("/events?since={since}&limit={PAGE_MAX}&wait={wait}"))
}

fn show(page: &EventPage, json: bool) -> Result<(), Failure> {
    if let Some(missing) = page.missing_up_to {
        if json {
            print::line(&compact(&json!({ "missingUpTo": missing.to_string() }))?)?;
        } else {
            print::remark(&format!(
                "Not all events up to {missing} are kept any more: some are missing here."
            ));
        }
    }
    for event in &page.events {
        print::line(&if json { compact(event)? } else { human(event) })?;
    }
    Ok(())
}

fn human(event: &Event) -> String {
    let kind = if event.automatic { "automatic" } else { "operator" };
    let because = if event.because.is_empty() {
        String::new()
    } else {
        format!("; because of {}", event.because.join(", "))
    };
    format!(
        "{}  {}  {} ({kind}: {}: {}{because})",
        print::moment(event.at),
        event.revision,
        event.what,
        event.actor,
        event.reason
    )
}

fn compact(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map_err(|error| Failure::new(format!("the event cannot be written as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use pangolin_core::{Revision, Timestamp};
    use pangolin_wire::Moment;

    use super::*;

    #[test]
    fn a_line_says_when_where_what_by_whom_and_why() {
        let event = Event {
            revision: Revision { lineage: 1, index: 52 },
            at: Moment(Timestamp(1_795_243_745_123)),
            term: Some(4),
            automatic: true,
            actor: "leader n1".to_owned(),
            reason: "its home n2 is down".to_owned(),
            because: vec!["1.51".to_owned()],
            what: "site acme/home (id 2) moves from n2 to n3 (epoch 7)".to_owned(),
            subjects: vec![],
        };
        assert_eq!(
            human(&event),
            "2026-11-21 06:49:05Z  1.52  site acme/home (id 2) moves from n2 to n3 (epoch 7) (automatic: leader n1: \
             its home n2 is down; because of 1.51)"
        );
        assert!(behind("1.52", 5).is_ok_and(|path| path == "/events?since=1.52&limit=1000&wait=5"));
        assert!(behind("yesterday", 0).is_err());
    }
}
