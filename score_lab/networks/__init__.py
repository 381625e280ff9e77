"""score_lab.networks"""
