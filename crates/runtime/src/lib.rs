//! The collector contract and the integration manager.
