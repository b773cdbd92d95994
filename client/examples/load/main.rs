//! Load for a broker, ours or another: sends, sends at a fixed rate, drains, times a start. Each run prints one
//! line of JSON with what it did and what it cost itself.
//!
//! ```text
//! load produce      --namesrv H:P --topic T [--messages N] [--bytes B] [--in-flight C] [--batch 1|N|auto]
//! load produce-rate --namesrv H:P --topic T [--rate R] [--seconds S] [--bytes B] [--batch 1|auto]
//! load consume      --namesrv H:P --topic T [--group G] [--tag EXPR | --sql EXPR] [--from FIRST|COMMITTED]
//! load start        --namesrv H:P --topic T --command "sh -c line" [--keep true]
//! ```
//!
//! All take `--connections N` (1), `--threads N` (1: the whole run on one thread), `--header binary|json`. The
//! topic is made with its first message unless it is there; `--queues N` makes it first.

mod args;
mod consume;
mod cost;
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
            "start" => start::time(&args).await,
            mode => bail!("{mode:?} is none of produce, produce-rate, consume, start"),
        }
    })?;
    println!("{line}");
    Ok(())
}
