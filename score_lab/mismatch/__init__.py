"""score_lab.mismatch"""
