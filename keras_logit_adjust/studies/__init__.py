"""The paper's findings as commands: each trains its models and gives a table and a figure."""

from keras_logit_adjust.studies.run import OWN_OPTIONS, STUDIES, run_study, studied, to_markdown

__all__ = ["OWN_OPTIONS", "STUDIES", "run_study", "studied", "to_markdown"]
