"""score_lab.objectives"""
