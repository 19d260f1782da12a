"""Videos that are steered in a browser: the server behind `phenaki play`, its protocol, its page, and replays."""
