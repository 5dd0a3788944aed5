//! `pangolinctl target`.

use clap::{Args, Subcommand, ValueEnum};
use pangolin_core::{TargetId, record};
use pangolin_wire::{
    CreateTarget, HealthCheck, SetShare, Standing, Target, TargetList, TargetState, UpdateTarget,
};

use crate::{
    failure::Failure,
    names,
    print::{self, cell, yes},
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Lead a resource to an address behind a site
    Create {
        /// Resource: id, host or short name
        #[arg(long)]
        resource: String,
        /// Site: id or short name
        #[arg(long)]
        site: String,
        /// Host name or address as seen from the site
        #[arg(long, value_name = "HOST")]
        ip: String,
        /// Port there
        #[arg(long)]
        port: u16,
        /// How it is spoken to
        #[arg(long, value_enum, default_value_t = Method::Http)]
        method: Method,
        #[command(flatten)]
        check: Check,
        #[command(flatten)]
        share: Share,
    },
    /// List the targets of a resource
    List {
        /// Resource: id, host or short name
        #[arg(long)]
        resource: String,
    },
    /// Show a target
    Show {
        /// Its id
        id: TargetId,
    },
    /// Change a target
    Update {
        /// Its id
        id: TargetId,
        /// Host name or address as seen from the site
        #[arg(long, value_name = "HOST")]
        ip: Option<String>,
        /// Port there
        #[arg(long)]
        port: Option<u16>,
        /// How it is spoken to
        #[arg(long, value_enum)]
        method: Option<Method>,
        /// Gets traffic, or not
        #[arg(long, value_name = "true|false")]
        enabled: Option<bool>,
        #[command(flatten)]
        check: Check,
        /// End the health checks
        #[arg(long, conflicts_with_all = ["health_path", "health_tcp"])]
        no_health: bool,
        #[command(flatten)]
        share: Share,
    },
    /// Remove a target
    Delete {
        /// Its id
        id: TargetId,
    },
}

/// How much of the traffic a target gets.
#[derive(Debug, Args)]
pub(crate) struct Share {
    /// Its part of the traffic, in proportion to the weights of the others: 1 to 256 [default: 1]
    #[arg(long)]
    weight: Option<u16>,
    /// 0 serves; 1 is the backup, which serves while no target of priority 0 can; and so on [default: 0]
    #[arg(long)]
    priority: Option<u8>,
}

impl Share {
    fn into_wire(self) -> Option<SetShare> {
        let Self { weight, priority } = self;
        (weight.is_some() || priority.is_some()).then_some(SetShare { weight, priority })
    }
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Check health by asking for this path
    #[arg(long, value_name = "PATH", conflicts_with = "health_tcp")]
    health_path: Option<String>,
    /// Check health by opening a TCP connection
    #[arg(long)]
    health_tcp: bool,
    /// Seconds between health checks [default: 30]
    #[arg(long, value_name = "SECONDS")]
    health_interval: Option<u32>,
    /// Seconds until a check counts as failed; nodes that check give it 10 at most [default: 5]
    #[arg(long, value_name = "SECONDS")]
    health_timeout: Option<u32>,
    /// Failed checks in a row that make the target unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER")]
    health_threshold: Option<u32>,
}

impl Check {
    fn into_wire(self) -> Result<Option<HealthCheck>, Failure> {
        if self.health_path.is_none() && !self.health_tcp {
            let given = [
                ("--health-interval", self.health_interval),
                ("--health-timeout", self.health_timeout),
                ("--health-threshold", self.health_threshold),
            ];
            return match given.iter().find(|(_, value)| value.is_some()) {
                Some((option, _)) => {
                    Err(Failure::usage(format!("{option} goes with --health-path or --health-tcp")))
                }
                None => Ok(None),
            };
        }
        let usual = HealthCheck::of(self.health_path);
        Ok(Some(HealthCheck {
            interval: self.health_interval.unwrap_or(usual.interval),
            timeout: self.health_timeout.unwrap_or(usual.timeout),
            unhealthy_threshold: self.health_threshold.unwrap_or(usual.unhealthy_threshold),
            path: usual.path,
        }))
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Method {
    /// HTTP/1.1 in the clear
    Http,
    /// HTTP over TLS
    Https,
    /// HTTP/2 in the clear
    H2c,
    /// Bytes, for a port (`pangolinctl port open`)
    Tcp,
    /// Datagrams, for a port
    Udp,
}

impl From<Method> for record::Method {
    fn from(method: Method) -> Self {
        match method {
            Method::Http => Self::Http,
            Method::Https => Self::Https,
            Method::H2c => Self::H2c,
            Method::Tcp => Self::Tcp,
            Method::Udp => Self::Udp,
        }
    }
}

pub(crate) async fn run(session: &Session, verb: Verb) -> Result<(), Failure> {
    match verb {
        Verb::Create { resource, site, ip, port, method, check, share } => {
            let health_check = check.into_wire()?;
            let resource = names::resource(session, &resource).await?;
            let site_id = names::site(session, &site).await?;
            let request = CreateTarget { site_id, ip, port, method: Some(method.into()), health_check };
            let created = session.put(&format!("/resource/{resource}/target"), &request).await?;
            let Some(share) = share.into_wire() else { return session.done(&created) };
            let target: Target = session.parse(&created)?;
            session.done(&session.post(&format!("/target/{}/share", target.target_id), &share).await?)
        }
        Verb::List { resource } => {
            let id = names::resource(session, &resource).await?;
            session.show(&session.get(&format!("/resource/{id}/targets")).await?, |targets: TargetList| {
                let rows = targets.targets.iter().map(|target| {
                    [
                        cell(target.target_id),
                        cell(target.site_id),
                        cell(print::word(target.method)),
                        cell(format!("{}:{}", target.ip, target.port)),
                        cell(target.weight),
                        cell(target.priority),
                        cell(health(target)),
                        standing(target),
                        cell(target.state.as_ref().map_or("-", |state| state.reason.as_str())),
                    ]
                });
                let headings =
                    ["ID", "SITE", "METHOD", "ADDRESS", "WEIGHT", "PRIORITY", "HEALTH CHECK", "STATE", "WHY"];
                print::table(headings, rows)
            })
        }
        Verb::Show { id } => session.show(&session.get(&format!("/target/{id}")).await?, |target: Target| {
            print::pairs([
                ("target", target.target_id.to_string()),
                ("resource", target.resource_id.to_string()),
                ("site", target.site_id.to_string()),
                ("method", print::word(target.method)),
                ("address", format!("{}:{}", target.ip, target.port)),
                ("tunnel port", target.internal_port.to_string()),
                ("enabled", yes(target.enabled).to_owned()),
                ("health check", health(&target)),
                ("weight", target.weight.to_string()),
                ("priority", target.priority.to_string()),
                ("state", target.state.as_ref().map_or_else(|| "-".to_owned(), told)),
            ])
        }),
        Verb::Update { id, ip, port, method, enabled, check, no_health, share } => {
            let health_check = if no_health { Some(None) } else { check.into_wire()?.map(Some) };
            let update = UpdateTarget { ip, port, method: method.map(Into::into), enabled, health_check };
            let same = UpdateTarget { ip: None, port: None, method: None, enabled: None, health_check: None };
            let share = share.into_wire();
            if share.is_none() || update != same {
                let updated = session.post(&format!("/target/{id}"), &update).await?;
                if share.is_none() {
                    return session.done(&updated);
                }
            }
            session.done(&session.post(&format!("/target/{id}/share"), &share).await?)
        }
        Verb::Delete { id } => session.delete(&format!("/target/{id}")).await,
    }
}

fn standing(target: &Target) -> comfy_table::Cell {
    match &target.state {
        None => cell("-"),
        Some(state) => {
            let good = matches!(state.standing, Standing::Healthy | Standing::Unknown);
            print::state(print::word(state.standing), good)
        }
    }
}

fn told(state: &TargetState) -> String {
    format!("{}: {}", print::word(state.standing), state.reason)
}

fn health(target: &Target) -> String {
    target.health_check.as_ref().map_or_else(
        || "-".to_owned(),
        |check| format!("{} every {} s", check.path.as_deref().unwrap_or("tcp"), check.interval),
    )
}
