//! What the agent says of calls whose exact number is known.

mod churn;
mod counts;
mod life;
mod limits;
mod names;
mod outage;
mod quantiles;
