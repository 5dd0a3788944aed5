//! Verbs that pangolind does itself on this host: `init` and `join`.

use std::{io, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use crate::{args::Rest, failure::Failure};

/// Becomes `pangolind VERB ARGS`; comes back only if that cannot be started.
pub(crate) fn pangolind(verb: &str, rest: &Rest) -> Result<(), Failure> {
    let program = beside().unwrap_or_else(|| "pangolind".into());
    let error = Command::new(&program).arg(verb).args(&rest.args).exec();
    let failure = Failure::new(format!("{} cannot be started: {error}", program.display()));
    Err(match error.kind() {
        io::ErrorKind::NotFound => {
            failure.hint("It is looked for beside pangolinctl and in PATH: install the package on this host.")
        }
        _ => failure,
    })
}

/// The pangolind that was installed, or built, together with this program.
fn beside() -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name("pangolind");
    program.is_file().then_some(program)
}
