//! Signing of zones: begun, ended, and the exchange of keys. A key goes when the zone's parent does not need it any more,
//! which the node that is asked looks up there.

use std::net::SocketAddr;

use pangolin_core::{HostName, dns::DnsChange, rollover::KeptKey};
use pangolin_wire::{Code, EndRollover};

use super::{
    Routes,
    dns::{parse, render_zone},
};
use crate::{
    answer::Answer,
    call::{Call, Changed},
    failure::ApiFailure,
};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/dns/zone/{zone}/signing", start);
    routes.delete("/dns/zone/{zone}/signing", stop);
    routes.put("/dns/zone/{zone}/rollover", start_rollover);
    routes.post("/dns/zone/{zone}/rollover", end_rollover);
}

async fn start(call: Call) -> Result<Answer, ApiFailure> {
    let zone = call.zone()?;
    let key = call.app.node.dns().new_zone_key(&zone)?;
    let change = DnsChange::SigningStarted { zone: zone.clone(), public: key.shown, private: key.sealed };
    let changed = call.change_dns(change).await?;
    let zone = render_zone(&call, &changed.state, &zone);
    Answer::created(changed.revision, "the zone is signed: enter its DS record at the parent", &zone)
}

async fn stop(call: Call) -> Result<Answer, ApiFailure> {
    let zone = call.zone()?;
    let [removed, server] = call.query(["dsRemoved", "server"])?;
    let changed = match parse("dsRemoved", removed)? {
        Some(true) => call.change_dns(DnsChange::SigningStopped(zone.clone())).await?,
        _ => call.ask_parent(&zone, parse("server", server)?, None).await?,
    };
    Ok(Answer::done(changed.revision, format!("the zone {zone} is not signed any more")))
}

async fn start_rollover(call: Call) -> Result<Answer, ApiFailure> {
    let zone = call.zone()?;
    let key = call.app.node.dns().new_zone_key(&zone)?;
    let change = DnsChange::RolloverStarted { zone: zone.clone(), public: key.shown, private: key.sealed };
    let changed = call.change_dns(change).await?;
    let zone = render_zone(&call, &changed.state, &zone);
    Answer::created(changed.revision, "two keys sign the zone: enter the next one's DS record as well", &zone)
}

async fn end_rollover(call: Call) -> Result<Answer, ApiFailure> {
    let zone = call.zone()?;
    let EndRollover { kept, believed, server } = call.body()?;
    let changed = match believed {
        true => call.change_dns(DnsChange::RolloverEnded { zone: zone.clone(), kept }).await?,
        false => call.ask_parent(&zone, server, Some(kept)).await?,
    };
    let message = match kept {
        KeptKey::Next => format!("the key of {zone} is exchanged: its former DS record can go"),
        KeptKey::Current => format!("{zone} keeps its key: the DS record of the other one can go"),
    };
    let zone = render_zone(&call, &changed.state, &zone);
    Answer::ok(changed.revision, message, &zone)
}

impl Call {
    /// Looks up what a zone's parent has, and has a key go that nobody needs any more.
    async fn ask_parent(
        &self,
        zone: &HostName,
        server: Option<SocketAddr>,
        kept: Option<KeptKey>,
    ) -> Result<Changed, ApiFailure> {
        // This node asks whom it is told to ask.
        if server.is_some() {
            self.administrator()?;
        }
        let found = self.app.node.dns().ask_parent(zone.clone(), server).await?;
        let changed = self.change_dns(DnsChange::ParentAsked { zone: zone.clone(), found, kept }).await?;
        let state = &changed.state;
        let still_there = match kept {
            Some(_) => state.rollovers().zone_keys.contains_key(zone),
            None => state.dns().zone_keys.contains_key(zone),
        };
        let reason = state.key_needed(zone, kept).filter(|_| still_there);
        match reason {
            None => Ok(changed),
            Some(reason) => Err(ApiFailure::new(Code::Conflict, reason).hint("Repeat it then.")),
        }
    }
}
