//! Ways to the networks. Each is a folder that knows the ports and the nouns, and nothing of the frontends or the store.

#[cfg(test)]
mod contract;
pub(crate) mod simulator;
