"""score_lab.training"""
