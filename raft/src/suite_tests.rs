//! openraft's own conformance suite, over the disk. It never opens a store twice: `storage` has tests for that.

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use pangolin_storage::RaftStore;
use tempfile::TempDir;

use crate::{log::Log, machine::Machine, types::TypeConfig};

struct OnDisk;

impl StoreBuilder<TypeConfig, Log, Machine, (TempDir, Option<pangolin_storage::StateDir>)> for OnDisk {
    async fn build(
        &self,
    ) -> Result<((TempDir, Option<pangolin_storage::StateDir>), Log, Machine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().expect("tempdir");
        let RaftStore { log, snapshots, snapshot, lock } = RaftStore::open(dir.path()).expect("opened");
        let machine = Machine::new(snapshots, snapshot.as_ref()).expect("machine");
        Ok(((dir, lock), Log(log), machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_on_disk_is_what_openraft_expects() {
    Box::pin(Suite::test_all(OnDisk)).await.expect("the suite passes");
}
