//! `pangolinctl journal`.

use std::time::Duration;

use clap::Args;
use pangolin_wire::{JournalLine, JournalPage, PAGE_MAX};

use crate::{failure::Failure, print, session::Session};

/// Pause between two looks with `--follow`.
const FOLLOW_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Journal {
    /// How many of the newest entries to show
    #[arg(long, short = 'n', default_value_t = 50, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=PAGE_MAX as i64))]
    limit: u16,
    /// Go on with what happens from now on, until interrupted
    #[arg(long, short)]
    follow: bool,
}

pub(crate) async fn run(session: &Session, args: &Journal) -> Result<(), Failure> {
    let answer = session.get(&format!("/node/journal?limit={}", args.limit)).await?;
    if !args.follow {
        return session.show(&answer, |page: JournalPage| {
            page.entries.iter().map(human).collect::<Vec<_>>().join("\n")
        });
    }
    let mut page: JournalPage = session.parse(&answer)?;
    let (mut last, mut away) = (None, false);
    loop {
        for entry in &page.entries {
            print::line(&if session.is_json() { compact(entry)? } else { human(entry) })?;
            last = Some(entry.serial);
        }
        tokio::time::sleep(FOLLOW_PAUSE).await;
        let path = last.map_or_else(
            || format!("/node/journal?limit={PAGE_MAX}"),
            |last| format!("/node/journal?after={last}&limit={PAGE_MAX}"),
        );
        page.entries.clear();
        match session.get(&path).await {
            Ok(answer) => (page, away) = (session.parse(&answer)?, false),
            // A node that is restarted comes back, and says what happened.
            Err(failure) => {
                if !away {
                    print::remark(&format!("{}\nTrying again …", failure.message()));
                }
                away = true;
            }
        }
    }
}

fn human(entry: &JournalLine) -> String {
    let why = entry.why.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
    format!("{}  {}{why}", print::moment(entry.at), entry.what)
}

/// One entry on one line, for programs that read along.
fn compact(entry: &JournalLine) -> Result<String, Failure> {
    serde_json::to_string(entry)
        .map_err(|error| Failure::new(format!("the entry cannot be written as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use pangolin_core::Timestamp;
    use pangolin_wire::Moment;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_line_says_when_what_and_why() {
        let mut line = JournalLine {
            serial: 1,
            at: Moment(Timestamp(1_795_243_745_123)),
            revision: None,
            what: "node n2 (id 2) is down".to_owned(),
            why: Some("nobody reaches it".to_owned()),
            event: Value::Null,
        };
        assert_eq!(human(&line), "2026-11-21 06:49:05Z  node n2 (id 2) is down (nobody reaches it)");
        line.why = None;
        assert_eq!(human(&line), "2026-11-21 06:49:05Z  node n2 (id 2) is down");
    }
}
