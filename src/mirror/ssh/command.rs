//! The commands of an ssh connection: the local `ssh` command, and the command that it runs on the
//! remote machine. Uses the crate `shell-words`.

use std::str::FromStr;

/// The command that runs in place of `ssh`: a program and its first arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshCommand {
    program: String,
    arguments: Vec<String>,
}

/// Why a string is not a valid [`SshCommand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseSshCommandError {
    /// A quote is not closed.
    #[error("a quote in the command is not closed")]
    OpenQuote,
    /// There is no word, or the first one is empty.
    #[error("the command names no program")]
    NoProgram,
}

impl SshCommand {
    /// The program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The first arguments of the program.
    #[must_use]
    pub fn arguments(&self) -> &[String] {
        &self.arguments
    }
}

impl Default for SshCommand {
    fn default() -> Self {
        Self { program: "ssh".to_owned(), arguments: Vec::new() }
    }
}

impl FromStr for SshCommand {
    type Err = ParseSshCommandError;

    /// Splits the string into words as a shell does. Variables and `~` are not expanded.
    fn from_str(text: &str) -> Result<Self, ParseSshCommandError> {
        let mut words =
            shell_words::split(text).map_err(|_| ParseSshCommandError::OpenQuote)?.into_iter();
        let program = words
            .next()
            .filter(|program| !program.is_empty())
            .ok_or(ParseSshCommandError::NoProgram)?;
        Ok(Self { program, arguments: words.collect() })
    }
}

/// The command that runs on the remote machine, as the shell there reads it: one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiveCommand(String);

/// The string is not a valid [`ReceiveCommand`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a command on one line")]
pub struct ParseReceiveCommandError;

impl ReceiveCommand {
    /// The command as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for ReceiveCommand {
    fn default() -> Self {
        Self("headwater".to_owned())
    }
}

impl FromStr for ReceiveCommand {
    type Err = ParseReceiveCommandError;

    fn from_str(text: &str) -> Result<Self, ParseReceiveCommandError> {
        match text.trim() {
            line if line.is_empty() || line.contains(char::is_control) => {
                Err(ParseReceiveCommandError)
            }
            line => Ok(Self(line.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ssh_command_is_split_into_words() {
        let words = |text: &str| {
            let command: SshCommand = text.parse().unwrap();
            [std::slice::from_ref(&command.program), command.arguments()].concat().join("|")
        };
        assert_eq!(words("ssh"), "ssh");
        assert_eq!(words("  ssh -i 'my key'  -o \"A b\"='c' ''"), "ssh|-i|my key|-o|A b=c|");
        assert_eq!(words(r"ssh -i my\ key ~/$HOME"), "ssh|-i|my key|~/$HOME");
        for bad in ["", "  ", "''"] {
            assert_eq!(bad.parse::<SshCommand>(), Err(ParseSshCommandError::NoProgram), "{bad}");
        }
        assert_eq!("ssh 'x".parse::<SshCommand>(), Err(ParseSshCommandError::OpenQuote));
    }

    #[test]
    fn receive_command_must_be_one_line() {
        assert!(
            "a\nb".parse::<ReceiveCommand>().is_err() && " ".parse::<ReceiveCommand>().is_err()
        );
        assert_eq!("sudo headwater ".parse::<ReceiveCommand>().unwrap().as_str(), "sudo headwater");
    }
}
