//! Verbs that another program does itself on this host: `init`, `join`, `recover`, `keyring open` and `chaos`.

use std::{ffi::OsString, io, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use crate::{args::Rest, failure::Failure};

/// Becomes `pangolind VERB ARGS`; comes back only if that cannot be started.
pub(crate) fn pangolind(verb: &str, rest: &Rest) -> Result<(), Failure> {
    become_program("pangolind", [verb.into()].into_iter().chain(rest.args.iter().cloned()))
}

/// Becomes `pangolin-chaos ARGS`; comes back only if that cannot be started.
pub(crate) fn chaos(rest: &Rest) -> Result<(), Failure> {
    become_program("pangolin-chaos", rest.args.iter().cloned())
}

fn become_program(name: &str, arguments: impl Iterator<Item = OsString>) -> Result<(), Failure> {
    let program = beside(name).unwrap_or_else(|| name.into());
    let error = Command::new(&program).args(arguments).exec();
    let failure = Failure::new(format!("{} cannot be started: {error}", program.display()));
    Err(match error.kind() {
        io::ErrorKind::NotFound => {
            failure.hint("It is looked for beside pangolinctl and in PATH: install the package on this host.")
        }
        _ => failure,
    })
}

/// The program that was installed, or built, together with this one.
fn beside(name: &str) -> Option<PathBuf> {
    let program = std::env::current_exe().ok()?.with_file_name(name);
    program.is_file().then_some(program)
}
