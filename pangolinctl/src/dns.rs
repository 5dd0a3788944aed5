//! `pangolinctl dns`.

mod split;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use clap::Subcommand;
use ipnet::IpNet;
use pangolin_core::{HostName, Slug, dns::AnswerPolicy, rollover::KeptKey};
use pangolin_wire::{
    AddRecord, CreateTransferKey, DnsReply, EndRollover, ImportRecords, ImportedRecords, NewTransferKey,
    RecordSetList, RegionRuleList, RemoveRecord, SetAnswers, SetRegion, SetSecondary, TransferKeyList, Zone,
    ZoneCheck, ZoneFile, ZoneList,
};

use crate::{
    failure::Failure,
    names,
    print::{self, cell, or_dash},
    session::Session,
};

/// A check asks several servers, some of which may not answer.
const CHECK_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the zones that the cluster answers for
    Zones,
    /// Print a zone as it is served, in the form of a zone file
    Dump {
        /// The zone
        zone: HostName,
    },
    /// Compare a zone with what its parent says, and print what to enter there
    Check {
        /// The zone
        zone: HostName,
        /// A server of the parent to ask, instead of those that the node's resolver finds
        #[arg(long, value_name = "ADDRESS:PORT")]
        server: Option<SocketAddr>,
    },
    /// Show what the node that is asked answers
    Query {
        /// The name
        name: String,
        /// Type of record; any one record set if not given
        kind: Option<String>,
        /// Answer as for a client with this address
        #[arg(long, value_name = "ADDRESS")]
        client: Option<IpAddr>,
    },
    /// Records of your own, beside those that the cluster makes
    #[command(subcommand)]
    Record(RecordVerb),
    /// Choose which nodes a resource's name leads to
    Answers {
        /// Id, host, short name or ORG/SHORT-NAME of the resource
        resource: String,
        /// home: the tunnel's node alone; home-first: that one first; all: every node; nearest: those of the client's
        /// region
        policy: AnswerPolicy,
    },
    /// Where clients are, for resources that are answered with the nearest nodes
    #[command(subcommand)]
    Region(RegionVerb),
    /// Signing of zones (DNSSEC)
    #[command(subcommand)]
    Dnssec(DnssecVerb),
    /// Servers elsewhere that keep copies of a zone
    #[command(subcommand)]
    Secondary(SecondaryVerb),
    /// Keys for transfers to secondaries (TSIG, HMAC-SHA256)
    #[command(subcommand)]
    Key(KeyVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RecordVerb {
    /// Add a record
    Add {
        /// Owner name
        name: HostName,
        /// Type: A, AAAA, CNAME, MX, TXT, SRV, CAA, NS, DS, TLSA, … or TYPE123
        kind: String,
        /// The value, as in a zone file; put quotes around texts
        #[arg(required = true, num_args = 1..)]
        value: Vec<String>,
        /// Seconds that resolvers may keep records of this name and type [default: as it is, or 300]
        #[arg(long)]
        ttl: Option<u32>,
    },
    /// Remove a record, or all of a name and type
    Remove {
        /// Owner name
        name: HostName,
        /// Type
        kind: String,
        /// The value; without it all records of this name and type
        value: Vec<String>,
    },
    /// List the records of a zone
    List {
        /// The zone
        zone: HostName,
    },
    /// Bring in a zone file
    Import {
        /// The zone
        zone: HostName,
        /// The file; - for standard input
        file: PathBuf,
        /// Drop your own records of the zone first
        #[arg(long)]
        replace: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionVerb {
    /// Say in which region the clients of a network are
    Set {
        /// The network
        network: IpNet,
        /// The region, as nodes name theirs (node.region)
        region: Slug,
    },
    /// Say nothing about a network any more
    Remove {
        /// The network
        network: IpNet,
    },
    /// List the rules
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DnssecVerb {
    /// Sign a zone, and print the DS record to enter at its parent
    Enable {
        /// The zone
        zone: HostName,
    },
    /// Print the DS record of a signed zone, and that of its next key
    Show {
        /// The zone
        zone: HostName,
    },
    /// Stop signing a zone, if its parent has had no DS record for long enough: remove it there, and run this twice
    Disable {
        /// The zone
        zone: HostName,
        /// A server of the parent to ask, instead of those that the node's resolver finds
        #[arg(long, value_name = "ADDRESS:PORT")]
        server: Option<SocketAddr>,
        /// Do not ask the parent: the DS record is gone everywhere
        #[arg(long, conflicts_with = "server")]
        ds_removed: bool,
    },
    /// Exchange a zone's key
    #[command(subcommand)]
    Rollover(RolloverVerb),
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloverVerb {
    /// Make the next key, let both sign, and print its DS record to enter at the parent beside the former one
    Start {
        /// The zone
        zone: HostName,
    },
    /// Let the former key go, if the parent has had the next one's DS record for long enough
    Finish {
        /// The zone
        zone: HostName,
        /// A server of the parent to ask, instead of those that the node's resolver finds
        #[arg(long, value_name = "ADDRESS:PORT")]
        server: Option<SocketAddr>,
        /// Do not ask the parent: the next key's DS record is everywhere
        #[arg(long, conflicts_with = "server")]
        ds_entered: bool,
    },
    /// Let the next key go, if the parent has the DS record of the one there was
    Cancel {
        /// The zone
        zone: HostName,
        /// A server of the parent to ask, instead of those that the node's resolver finds
        #[arg(long, value_name = "ADDRESS:PORT")]
        server: Option<SocketAddr>,
        /// Do not ask the parent: the key's DS record is everywhere
        #[arg(long, conflicts_with = "server")]
        ds_kept: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecondaryVerb {
    /// Let a server keep a copy of a zone, and tell it of changes
    Add {
        /// The zone
        zone: HostName,
        /// Where the server is told of changes
        address: SocketAddr,
        /// Name of the key that it uses
        #[arg(long)]
        key: HostName,
    },
    /// Let it no longer
    Remove {
        /// The zone
        zone: HostName,
        /// The server
        address: SocketAddr,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyVerb {
    /// Make a key, and print it this once
    Create {
        /// Its name, which both sides use
        name: HostName,
    },
    /// List the keys
    List,
    /// Remove a key
    Delete {
        /// Its name
        name: HostName,
    },
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Zones => session.show(&session.get("/dns/zones").await?, zones),
        Verb::Dump { zone } => {
            let answer = session.get(&format!("/dns/zone/{zone}/file")).await?;
            session.show(&answer, |file: ZoneFile| file.text.trim_end().to_owned())
        }
        Verb::Check { zone, server } => check(session, &zone, server).await,
        Verb::Query { name, kind, client } => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("name", &name);
            if let Some(kind) = kind {
                query.append_pair("kind", &kind);
            }
            if let Some(client) = client {
                query.append_pair("client", &client.to_string());
            }
            session.show(&session.get(&format!("/dns/query?{}", query.finish())).await?, reply)
        }
        Verb::Record(verb) => record(session, verb).await,
        Verb::Answers { resource, policy } => {
            let id = names::resource(session, &resource).await?;
            session.done(&session.post(&format!("/resource/{id}/answers"), &SetAnswers { policy }).await?)
        }
        Verb::Region(verb) => region(session, verb).await,
        Verb::Dnssec(verb) => dnssec(session, verb).await,
        Verb::Secondary(verb) => secondary(session, verb).await,
        Verb::Key(verb) => key(session, verb).await,
    }
}

fn zones(list: ZoneList) -> String {
    let rows = list.zones.into_iter().map(|zone| {
        [
            cell(&zone.zone),
            cell(or_dash(zone.org_id)),
            cell(zone.serial),
            cell(zone.names),
            cell(print::yes(zone.delegation_signer.is_some())),
            cell(print::list(&zone.secondaries.iter().map(|s| s.address).collect::<Vec<_>>())),
        ]
    });
    print::table(["ZONE", "ORG", "SERIAL", "NAMES", "SIGNED", "SECONDARIES"], rows)
}

async fn check(session: &Session, zone: &HostName, server: Option<SocketAddr>) -> Result<(), Failure> {
    let query = server.map(|server| format!("?server={server}")).unwrap_or_default();
    let answer = session.get_patiently(&format!("/dns/zone/{zone}/check{query}"), CHECK_PATIENCE).await?;
    let checked: ZoneCheck = session.parse(&answer)?;
    session.show(&answer, |checked: ZoneCheck| {
        let mut lines: Vec<String> = checked.good.iter().map(|line| format!("ok     {line}")).collect();
        lines.extend(checked.bad.iter().map(|line| format!("wrong  {line}")));
        lines.push("\nThe parent has to have:".to_owned());
        lines.extend(checked.enter);
        lines.join("\n")
    })?;
    match checked.bad.len() {
        0 => Ok(()),
        count => Err(Failure::new(format!("{count} things are wrong with {zone}"))),
    }
}

fn reply(reply: DnsReply) -> String {
    let authoritative = if reply.authoritative { ", authoritative" } else { "" };
    let mut lines = vec![format!("; {}{authoritative}", reply.rcode)];
    for (section, records) in
        [("answer", reply.answer), ("authority", reply.authority), ("additional", reply.additional)]
    {
        if !records.is_empty() {
            lines.push(format!("; {section}"));
            lines.extend(records);
        }
    }
    lines.join("\n")
}

async fn record(session: &Session, verb: RecordVerb) -> Result<(), Failure> {
    match verb {
        RecordVerb::Add { name, kind, value, ttl } => {
            let request = AddRecord { name, kind, value: value.join(" "), ttl };
            session.done(&session.put("/dns/record", &request).await?)
        }
        RecordVerb::Remove { name, kind, value } => {
            let value = (!value.is_empty()).then(|| value.join(" "));
            session.done(&session.post("/dns/record/remove", &RemoveRecord { name, kind, value }).await?)
        }
        RecordVerb::List { zone } => {
            let answer = session.get(&format!("/dns/zone/{zone}/records")).await?;
            session.show(&answer, |list: RecordSetList| {
                let rows = list.record_sets.iter().flat_map(|set| {
                    set.values
                        .iter()
                        .map(|value| [cell(&set.name), cell(set.ttl), cell(&set.kind), cell(value)])
                });
                print::table(["NAME", "TTL", "TYPE", "VALUE"], rows)
            })
        }
        RecordVerb::Import { zone, file, replace } => import(session, &zone, &file, replace).await,
    }
}

async fn import(session: &Session, zone: &HostName, file: &PathBuf, replace: bool) -> Result<(), Failure> {
    let text = match file.as_os_str() == "-" {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    let text = text.map_err(|error| Failure::usage(format!("{} cannot be read: {error}", file.display())))?;
    let parts = split::split(&text);
    let count = parts.len();
    for (number, text) in parts.into_iter().enumerate() {
        let request = ImportRecords { text, replace: replace && number == 0 };
        let path = format!("/dns/zone/{zone}/import");
        let answer = session.post(&path, &request).await.map_err(|failure| match number {
            0 => failure,
            done => failure.hint(format!("{done} of {count} parts of the file have been brought in.")),
        })?;
        let imported: ImportedRecords = session.parse(&answer)?;
        imported.skipped.iter().for_each(|skipped| print::remark(&format!("left out: {skipped}")));
        session.done(&answer)?;
    }
    Ok(())
}

async fn region(session: &Session, verb: RegionVerb) -> Result<(), Failure> {
    let (network, region) = match verb {
        RegionVerb::Set { network, region } => (network, Some(region)),
        RegionVerb::Remove { network } => (network, None),
        RegionVerb::List => {
            return session.show(&session.get("/dns/regions").await?, |list: RegionRuleList| {
                let rows = list.rules.iter().map(|rule| [cell(rule.network), cell(&rule.region)]);
                print::table(["NETWORK", "REGION"], rows)
            });
        }
    };
    session.done(&session.post("/dns/region", &SetRegion { network, region }).await?)
}

async fn dnssec(session: &Session, verb: DnssecVerb) -> Result<(), Failure> {
    match verb {
        DnssecVerb::Enable { zone } => {
            let answer = session.put(&format!("/dns/zone/{zone}/signing"), &serde_json::json!({})).await?;
            session.show(&answer, |zone: Zone| or_dash(zone.delegation_signer))?;
            if !session.is_json() {
                print::remark(
                    "Enter this DS record at the zone's parent; until then the signatures count for nothing.",
                );
            }
            Ok(())
        }
        DnssecVerb::Show { zone } => {
            let list: ZoneList = session.parse(&session.get("/dns/zones").await?)?;
            let found = list.zones.into_iter().find(|known| known.zone == zone);
            let found = found.ok_or_else(|| Failure::new(format!("{zone} is no zone of this cluster")))?;
            let line = found.delegation_signer.ok_or_else(|| {
                Failure::new(format!("the zone {zone} is not signed"))
                    .hint(format!("Sign it: pangolinctl dns dnssec enable {zone}"))
            })?;
            print::line(&line)?;
            found.next_delegation_signer.iter().try_for_each(|line| print::line(line))
        }
        DnssecVerb::Disable { zone, server, ds_removed } => {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query.append_pair("dsRemoved", if ds_removed { "true" } else { "false" });
            if let Some(server) = server {
                query.append_pair("server", &server.to_string());
            }
            let path = format!("/dns/zone/{zone}/signing?{}", query.finish());
            session.delete_patiently(&path, CHECK_PATIENCE).await
        }
        DnssecVerb::Rollover(verb) => rollover(session, verb).await,
    }
}

async fn rollover(session: &Session, verb: RolloverVerb) -> Result<(), Failure> {
    let (zone, request) = match verb {
        RolloverVerb::Start { zone } => {
            let answer = session.put(&format!("/dns/zone/{zone}/rollover"), &serde_json::json!({})).await?;
            session.show(&answer, |zone: Zone| or_dash(zone.next_delegation_signer))?;
            if !session.is_json() {
                print::remark(
                    "Enter this DS record at the zone's parent, beside the one that is there; then finish the rollover.",
                );
            }
            return Ok(());
        }
        RolloverVerb::Finish { zone, server, ds_entered } => {
            (zone, EndRollover { kept: KeptKey::Next, believed: ds_entered, server })
        }
        RolloverVerb::Cancel { zone, server, ds_kept } => {
            (zone, EndRollover { kept: KeptKey::Current, believed: ds_kept, server })
        }
    };
    let path = format!("/dns/zone/{zone}/rollover");
    session.done(&session.post_patiently(&path, &request, CHECK_PATIENCE).await?)
}

async fn secondary(session: &Session, verb: SecondaryVerb) -> Result<(), Failure> {
    let (zone, request) = match verb {
        SecondaryVerb::Add { zone, address, key } => (zone, SetSecondary { address, key: Some(key) }),
        SecondaryVerb::Remove { zone, address } => (zone, SetSecondary { address, key: None }),
    };
    session.done(&session.post(&format!("/dns/zone/{zone}/secondary"), &request).await?)
}

async fn key(session: &Session, verb: KeyVerb) -> Result<(), Failure> {
    match verb {
        KeyVerb::Create { name } => {
            let answer = session.put("/dns/transfer-key", &CreateTransferKey { name }).await?;
            session
                .show(&answer, |key: NewTransferKey| format!("{}:{}:{}", key.algorithm, key.name, key.secret))
        }
        KeyVerb::List => session.show(&session.get("/dns/transfer-keys").await?, |list: TransferKeyList| {
            print::table(["KEY"], list.keys.iter().map(|key| [cell(key)]))
        }),
        KeyVerb::Delete { name } => session.delete(&format!("/dns/transfer-key/{name}")).await,
    }
}
