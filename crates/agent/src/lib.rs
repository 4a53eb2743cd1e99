//! The Telesonde agent.
