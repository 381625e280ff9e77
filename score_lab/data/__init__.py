"""score_lab.data"""
