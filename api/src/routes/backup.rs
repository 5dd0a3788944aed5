//! Backups of the node that is asked, restoring the catalog, and the recovery key.

use pangolin_wire::{BackupList, RestoreCatalog};

use super::Routes;
use crate::{answer::Answer, call::Call, failure::ApiFailure};

pub(super) fn routes(routes: &mut Routes) {
    routes.get("/node/backups", list);
    routes.put("/node/backup", create);
    routes.post("/node/backups/verify", verify);
    routes.post("/cluster/restore", restore);
    routes.post("/cluster/recovery-key", new_key);
}

async fn list(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let found = call.app.node.backups().list().await?;
    let (backups, pagination) = call.page(found.backups.into_iter())?;
    let list = BackupList { backups, pagination, ..found };
    Answer::ok(call.state.revision(), "backups of this node", &list)
}

async fn create(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let backup = call.app.node.backups().create().await?;
    let message = format!("backup {} was made and verified", backup.name);
    Answer::created(call.app.cluster.state().revision(), message, &backup)
}

async fn verify(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let report = call.app.node.backups().verify().await?;
    let message = match report.problems.len() {
        0 => "every backup of this node can be restored".to_owned(),
        count => format!("{count} backups cannot be restored"),
    };
    Answer::ok(call.state.revision(), message, &report)
}

async fn restore(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let RestoreCatalog { at } = call.body()?;
    let restored = call.app.node.backups().restore(at, call.cause(), call.request()).await?;
    let message = match restored.from {
        Some(from) => format!("the catalog of revision {from} is restored"),
        None => "the catalog was restored by an earlier attempt of this request".to_owned(),
    };
    Answer::ok(call.app.cluster.state().revision(), message, &restored)
}

async fn new_key(call: Call) -> Result<Answer, ApiFailure> {
    call.administrator()?;
    let key = call.app.node.backups().new_recovery_key(call.cause(), call.request()).await?;
    let message = format!("backups are encrypted to the recovery key {} from now on", key.fingerprint);
    Answer::ok(call.app.cluster.state().revision(), message, &key)
}
