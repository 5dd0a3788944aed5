//! API keys.

use pangolin_core::{CatalogChange, Object, record};
use pangolin_wire::{ApiKey, ApiKeyList, Code, CreateApiKey, CreatedApiKey};

use super::{
    Routes,
    credentials::{self, Pair},
};
use crate::{answer::Answer, call::Call, failure::ApiFailure};

pub(super) fn routes(routes: &mut Routes) {
    routes.put("/api-key", create);
    routes.get("/api-keys", list);
    routes.get("/api-key/{apiKeyId}", show);
    routes.delete("/api-key/{apiKeyId}", remove);
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    let CreateApiKey { name, scope, api_key_id, secret } = call.body()?;
    if !call.view().sees_scope(&scope) {
        return Err(ApiFailure::new(Code::Forbidden, "a key cannot make another one that reaches further"));
    }
    let Pair { id, secret } = Pair::given_or_new(api_key_id, secret, "apiKeyId")?;
    let change = CatalogChange::ApiKeyCreated { id, name, scope, secret: secret.digest() };
    let changed = call.change(change).await?;
    let id = changed.made(|object| match object {
        Object::ApiKey(id) => Some(id.clone()),
        _ => None,
    })?;
    let made = call.view_of(&changed).api_key(&id)?;
    let key = secret.if_kept_as(made.secret).map(|secret| format!("{id}.{secret}"));
    let message = credentials::message(&format!("API key {id} created"), key.as_ref());
    Answer::created(changed.revision, message, &CreatedApiKey { api_key: render(made), key })
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    let view = call.view();
    let keys = view.state.api_keys().values().filter(|key| view.sees_scope(&key.scope));
    let (api_keys, pagination) = call.page(keys.map(render))?;
    Answer::ok(call.state.revision(), "API keys", &ApiKeyList { api_keys, pagination })
}

async fn show(call: Call) -> Result<Answer, ApiFailure> {
    let id: String = call.parameter("apiKeyId")?;
    Answer::ok(call.state.revision(), format!("API key {id}"), &render(call.view().api_key(&id)?))
}

async fn remove(call: Call) -> Result<Answer, ApiFailure> {
    let id: String = call.parameter("apiKeyId")?;
    call.may_remove(|view| view.api_key(&id).map(|_| ()))?;
    let changed = call.change(CatalogChange::ApiKeyRemoved(id.clone())).await?;
    Ok(Answer::done(changed.revision, format!("API key {id} deleted")))
}

fn render(key: &record::ApiKey) -> ApiKey {
    ApiKey {
        api_key_id: key.id.clone(),
        name: key.name.clone(),
        scope: key.scope.clone(),
        created_at: key.created_at.into(),
    }
}
