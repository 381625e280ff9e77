"""score_lab.evaluation"""
