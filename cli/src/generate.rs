//! `sluice completions`, `sluice man`: what shells and `man` read, generated from the command line's own definition.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap_complete::Shell;

use crate::show::plural;

/// Prints what a shell reads to complete words.
pub(crate) fn completions(shell: Shell, mut command: clap::Command) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "sluice", &mut text);
    std::io::stdout().write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes one page for each command, `sluice-topic-tail.1` and so on.
pub(crate) fn man(folder: &Path, mut command: clap::Command) -> Result<ExitCode> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make folder {}", folder.display()))?;
    command.build();
    let pages = pages(folder, &command)?;
    writeln!(std::io::stdout(), "{} in {}", plural(pages, "page"), folder.display())?;
    Ok(ExitCode::SUCCESS)
}

/// How many were written for a command and those below it.
fn pages(folder: &Path, command: &clap::Command) -> Result<usize> {
    let name = command.get_display_name().unwrap_or_else(|| command.get_name());
    let path = folder.join(format!("{name}.1"));
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    std::fs::write(&path, page).with_context(|| format!("cannot write {}", path.display()))?;
    let below = command.get_subcommands().filter(|one| one.get_name() != "help");
    below.map(|one| pages(folder, one)).try_fold(1, |sum, pages| Ok(sum + pages?))
}
