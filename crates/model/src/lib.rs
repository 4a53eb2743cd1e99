//! Pure data: metrics, subjects, points, series and snapshots.
