"""score_lab.guidance"""
