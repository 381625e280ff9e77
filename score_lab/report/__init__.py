"""score_lab.report"""
