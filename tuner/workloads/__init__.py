"""What a trial of a study is: a network that Tuner trains."""
