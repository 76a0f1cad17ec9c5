"""Test-time methods: functions of answers and scores, never of the verifier's verdict."""
