//! Load for a broker, ours or another: sends, sends at a fixed rate, drains, times a start. Each run prints one
//! line of JSON with what it did and what it cost itself.
//!
//! ```text
//! load produce      --namesrv H:P --topic T [--messages N] [--bytes B] [--in-flight C] [--batch 1|N|auto] [--modulo M]
//! load produce-rate --namesrv H:P --topic T [--rate R] [--seconds S] [--bytes B] [--batch 1|auto] [--tick-us U]
//! load consume      --namesrv H:P --topic T [--group G] [--tag EXPR | --sql EXPR] [--pull N] [--hold-ms MS]
//! load delay        --namesrv H:P --topic T [--messages N] [--pending N] [--delay-ms MS] [--in-flight C]
//! load start        --namesrv H:P --topic T --command LINE [--keep true]
//! ```
//!
//! `produce` keeps so many requests without an answer (with `auto` messages, of which those that wait for one
//! queue go as one batch). `produce-rate` sends whatever the answers do, and counts latencies from when a message
//! was due; those due within a tick (100 µs) are due at its end. `consume` reads from the first message, or where
//! the group committed, to where queues ended at the start. `delay` sends messages that are due in an hour (`--pending`),
//! then others, due evenly over the delay after the delay, and counts how late they come. `start` runs the line until a message is acknowledged.
//!
//! All take `--connections N` (1), `--threads N` (1: the whole run on one thread), `--header binary|json`. The
//! topic is made with its first message unless it is there; `--queues N` makes it first.

#![expect(clippy::print_stdout, reason = "it is what it is for")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "figures are positive and far below the limits of their types"
)]

mod args;
mod consume;
mod cost;
mod delay;
mod histogram;
mod produce;
mod start;

use anyhow::{Context, bail};

use args::Args;

fn main() -> anyhow::Result<()> {
    let args = Args::parse(std::env::args().skip(1))?;
    let threads: usize = args.number("threads", 1)?;
    let mut builder = match threads {
        0 | 1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    let runtime = builder.enable_all().build().context("cannot start a runtime")?;
    let line = runtime.block_on(async {
        match args.mode.as_str() {
            "produce" => produce::closed(&args).await,
            "produce-rate" => produce::open(&args).await,
            "consume" => consume::drain(&args).await,
            "delay" => delay::deliver(&args).await,
            "start" => start::time(&args).await,
            mode => bail!("{mode:?} is none of produce, produce-rate, consume, delay, start"),
        }
    })?;
    println!("{line}");
    Ok(())
}
