"""score_lab.paths"""
