"""A search over training's settings: an Optuna study whose trials are trainings.

The study is kept in `.imagemill/sweep.db`, so one that was stopped goes on. `space` says what a
draw changes in params, `study` asks and tells Optuna, `trial` trains.
"""
