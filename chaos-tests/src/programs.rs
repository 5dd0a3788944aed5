//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The programs of one build.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The node.
    pub pangolind: PathBuf,
    /// The operator's command line.
    pub pangolinctl: PathBuf,
    /// The program at a site.
    pub connector: PathBuf,
    /// The harness itself, which is also the sample backend.
    pub chaos: PathBuf,
}

impl Programs {
    /// The programs beside the running one: in the same folder of `target`, also from a test.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn find() -> Result<Self> {
        let own = std::env::current_exe().context("where is this program?")?;
        let folder = own.parent().context("this program has no folder")?;
        // Tests run from target/PROFILE/deps, examples from their own folder beside it.
        let below = folder.ends_with("deps") || folder.ends_with("examples");
        let folder = if below { folder.parent().unwrap_or(folder) } else { folder };
        Self::within(folder)
    }

    /// The programs in a folder.
    ///
    /// # Errors
    /// One of them is not there.
    pub fn within(folder: &Path) -> Result<Self> {
        let program = |name: &str| {
            let path = folder.join(name);
            if path.is_file() {
                return Ok(path);
            }
            bail!("{} is not there: build it with `cargo build --workspace --bins`", path.display())
        };
        Ok(Self {
            pangolind: program("pangolind")?,
            pangolinctl: program("pangolinctl")?,
            connector: program("pangolin-connector")?,
            chaos: program("pangolin-chaos")?,
        })
    }
}
