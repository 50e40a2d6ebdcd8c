"""Networks under our own training loop: what a trial of theirs is, on both sides of a job."""
