"""score_lab.samplers"""
