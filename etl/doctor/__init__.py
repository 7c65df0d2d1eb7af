"""What could keep the job from working, looked at one by one, each with its remedy.

Nothing is stored or changed, neither here nor in the database nor at the API, which gets one call an account.
"""
