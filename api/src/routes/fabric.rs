//! Capacities of nodes, regions of sites, provisioning keys.

use pangolin_core::{
    Body, NodeId, Object, SiteId, Slug,
    fabric::{Capacity, FabricChange, ProvisioningKey as Record},
};
use pangolin_wire::{
    CreateProvisioningKey, CreatedProvisioningKey, ProvisioningKey, ProvisioningKeyList, SetCapacity,
    SetSiteRegion,
};

use super::{
    Routes,
    credentials::{self, Pair},
    node, site,
};
use crate::{
    answer::Answer,
    call::{Call, Changed},
    failure::ApiFailure,
};

/// How long a provisioning key is good for if nobody says how long, in seconds: a day.
const LIFETIME_DEFAULT: u64 = 86_400;

pub(super) fn routes(routes: &mut Routes) {
    routes.post("/node/{nodeId}/capacity", set_capacity);
    routes.post("/site/{siteId}/region", set_region);
    routes.put("/org/{orgId}/provisioning-key", create_key);
    routes.get("/org/{orgId}/provisioning-keys", list_keys);
    routes.get("/provisioning-key/{provisioningKeyId}", show_key);
    routes.delete("/provisioning-key/{provisioningKeyId}", remove_key);
}

async fn change(call: &Call, change: FabricChange) -> Result<Changed, ApiFailure> {
    call.propose(Body::Fabric(Box::new(change))).await
}

async fn set_capacity(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let id: NodeId = call.parameter("nodeId")?;
    node::find(&call.state, id)?;
    let SetCapacity { weight, capacity } = call.body()?;
    if weight.is_none() && capacity.is_none() {
        return Err(ApiFailure::invalid("nothing is to be changed: give weight or capacity"));
    }
    let now = call.state.fabric().capacity(id);
    let sites = capacity.map_or(now.sites, |most| (most > 0).then_some(most));
    let capacity = Capacity { weight: weight.unwrap_or(now.weight), sites };
    let changed = change(&call, FabricChange::CapacitySet { node: id, capacity }).await?;
    let most = sites.map_or_else(|| "any number of sites".to_owned(), |most| format!("at most {most} sites"));
    let message = format!("node {id} has weight {} and is home to {most}", capacity.weight);
    let node = node::render(&changed.state, node::find(&changed.state, id)?);
    Answer::ok(changed.revision, message, &node)
}

async fn set_region(call: Call) -> Result<Answer, ApiFailure> {
    let id: SiteId = call.parameter("siteId")?;
    call.view().site(id)?;
    let SetSiteRegion { region } = call.body()?;
    let message = match &region {
        Some(region) => format!("site {id} lies in region {region}"),
        None => format!("site {id} lies in no region"),
    };
    let changed = change(&call, FabricChange::SiteRegionSet { site: id, region }).await?;
    let site = site::render(&changed.state, call.view_of(&changed).site(id)?);
    Answer::ok(changed.revision, message, &site)
}

async fn create_key(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let CreateProvisioningKey { name, uses, lifetime_seconds, provisioning_key_id, secret } = call.body()?;
    let Pair { id, secret } = Pair::given_or_new(provisioning_key_id, secret, "provisioningKeyId")?;
    let lifetime_s = Some(lifetime_seconds.unwrap_or(LIFETIME_DEFAULT)).filter(|seconds| *seconds > 0);
    let uses = Some(uses.unwrap_or(1)).filter(|uses| *uses > 0);
    let digest = secret.digest();
    let made = FabricChange::ProvisioningKeyCreated { id, org, name, secret: digest, uses, lifetime_s };
    let changed = change(&call, made).await?;
    let id = changed.made(|object| match object {
        Object::ProvisioningKey(id) => Some(id.clone()),
        _ => None,
    })?;
    let made = call.view_of(&changed).provisioning_key(&id)?;
    let key = secret.if_kept_as(made.secret).map(|secret| format!("{id}.{secret}"));
    let message = credentials::message(&format!("provisioning key {id} created"), key.as_ref());
    let answer = CreatedProvisioningKey { provisioning_key: render(made), key };
    Answer::created(changed.revision, message, &answer)
}

async fn list_keys(call: Call) -> Result<Answer, ApiFailure> {
    let org: Slug = call.parameter("orgId")?;
    call.view().org(&org)?;
    let keys = call.state.fabric().provisioning_keys.values().filter(|key| key.org == org);
    let (provisioning_keys, pagination) = call.page(keys.map(render))?;
    let answer = ProvisioningKeyList { provisioning_keys, pagination };
    Answer::ok(call.state.revision(), format!("provisioning keys of org {org}"), &answer)
}

async fn show_key(call: Call) -> Result<Answer, ApiFailure> {
    let id: String = call.parameter("provisioningKeyId")?;
    let key = render(call.view().provisioning_key(&id)?);
    Answer::ok(call.state.revision(), format!("provisioning key {id}"), &key)
}

async fn remove_key(call: Call) -> Result<Answer, ApiFailure> {
    let id: String = call.parameter("provisioningKeyId")?;
    call.may_remove(|view| view.provisioning_key(&id).map(|_| ()))?;
    let changed = change(&call, FabricChange::ProvisioningKeyRemoved(id.clone())).await?;
    Ok(Answer::done(
        changed.revision,
        format!("provisioning key {id} deleted; the sites that came of it stay"),
    ))
}

fn render(key: &Record) -> ProvisioningKey {
    ProvisioningKey {
        provisioning_key_id: key.id.clone(),
        org_id: key.org.clone(),
        name: key.name.clone(),
        uses: key.uses,
        used: key.used,
        expires_at: key.expires_at.map(Into::into),
        created_at: key.created_at.into(),
    }
}
