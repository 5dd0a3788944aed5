//! What went wrong, and the exit code that says so.

use std::{io::Write as _, process::ExitCode};

use pangolin_wire::{ClientError, Code};

const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 3;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    exit: u8,
}

impl Failure {
    /// A plain failure.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: FAILED }
    }

    /// Options that do not go together or are missing.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, exit: USAGE }
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The message alone.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Prints the failure to stderr.
    pub(crate) fn report(&self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        // Nobody is left to tell if stderr is closed.
        let _ = writeln!(stderr, "pangolinctl: {}", self.message);
        if let Some(hint) = &self.hint {
            let _ = writeln!(stderr, "  {hint}");
        }
        ExitCode::from(self.exit)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::Setup(_) => USAGE,
            error if error.is_passing() => UNAVAILABLE,
            _ => FAILED,
        };
        let hint = match &error {
            ClientError::Refused(failure) => failure.hint.clone().or_else(|| hint_of(failure.code)),
            ClientError::Unreachable { .. } => Some(
                "Is pangolind running there? Choose the node with --endpoint and --key-file, or --socket."
                    .to_owned(),
            ),
            ClientError::Broken { .. } => {
                Some("Look whether it was done before you repeat it, or ask another node.".to_owned())
            }
            ClientError::Foreign { .. } => Some("Is this the address of a Pangolin node's API?".to_owned()),
            ClientError::Setup(_) => None,
        };
        Self { message: error.to_string(), hint, exit }
    }
}

fn hint_of(code: Code) -> Option<String> {
    let hint = match code {
        Code::Unauthorized => "Give a key with --key-file or PANGOLIN_KEY.",
        Code::Forbidden => "Use a key that reaches the whole cluster, or the local socket of a node.",
        _ => return None,
    };
    Some(hint.to_owned())
}
