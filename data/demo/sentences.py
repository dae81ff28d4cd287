"""Sentences of the demo corpus that belong to no topic: greetings, chatter, closings.

One row is German, Chinese, English. Slots: p product (German needs its case: der_p, den_p, dem_p; with a
capital where it opens the sentence), date, amount (euros), count, city, name, colour, weekday. A slot
occurs at most once in a sentence. No abbreviation, no dot inside a sentence: splitting stays unambiguous.
"""
# ruff: noqa: E501

# One row, one line.
# fmt: off
Row = tuple[str, str, str]

OPENINGS: tuple[Row, ...] = (
    ("Guten Tag!", "您好！", "Good day!"),
    ("Hallo liebes Team!", "亲爱的客服团队，你们好！", "Hello dear team!"),
    ("Sehr geehrte Damen und Herren!", "尊敬的女士们、先生们！", "Dear Sir or Madam!"),
    ("Guten Morgen nach {city}!", "{city}的朋友们，早上好！", "Good morning to {city}!"),
    ("Mein Name ist {name}.", "我叫{name}。", "My name is {name}."),
    ("Ich schreibe Ihnen aus {city}.", "我是从{city}给您写信的。", "I am writing to you from {city}."),
)

CLOSINGS: tuple[Row, ...] = (
    ("Vielen Dank im Voraus!", "提前感谢您！", "Thank you in advance!"),
    ("Viele Grüße aus {city}!", "来自{city}的问候！", "Greetings from {city}!"),
    ("Freundliche Grüße von {name}.", "{name}向您致意。", "Kind regards from {name}."),
    ("Ich freue mich auf Ihre Antwort.", "期待您的回复。", "I look forward to your reply."),
    ("Bitte antworten Sie bis zum {date}.", "请在{date}之前回复。", "Please reply by {date}."),
    ("Danke für Ihre Mühe!", "辛苦您了，谢谢！", "Thanks for your trouble!"),
)

CHATTER: tuple[Row, ...] = (
    ("Ich bin seit {count} Jahren Ihr Kunde.", "我做你们的客户已经{count}年了。", "I have been your customer for {count} years."),
    ("Gestern hat es hier den ganzen Tag geregnet.", "昨天这里下了一整天雨。", "Yesterday it rained here all day."),
    ("Meine Schwester wohnt auch in {city}.", "我姐姐也住在{city}。", "My sister lives in {city} too."),
    ("Am {weekday} bin ich meistens zu Hause.", "{weekday}我一般在家。", "On {weekday} I am usually at home."),
    ("Ihr Laden in {city} gefällt mir sehr.", "我很喜欢你们在{city}的商店。", "I like your shop in {city} very much."),
    ("Mein Nachbar {name} hat mir den Laden empfohlen.", "我的邻居{name}向我推荐了这家店。", "My neighbour {name} recommended the shop to me."),
    ("Ich habe {den_p} am {date} bestellt.", "我是在{date}订购{p}的。", "I ordered the {p} on {date}."),
    ("Bezahlt habe ich {amount} Euro.", "我付了{amount}欧元。", "I paid {amount} euros."),
    ("Ich habe die Farbe {colour} gewählt.", "我选的是{colour}。", "I chose the colour {colour}."),
    ("Die Farbe {colour} passt gut zu unserer Küche.", "{colour}和我们的厨房很相配。", "The colour {colour} goes well with our kitchen."),
    ("Meine Kinder haben sich sehr darauf gefreut.", "我的孩子们非常期待它。", "My children were really looking forward to it."),
    ("Wir sind im Sommer nach {city} gezogen.", "我们夏天搬到了{city}。", "We moved to {city} in the summer."),
    ("{Der_p} sollte ein Geschenk für {name} sein.", "这个{p}本来是送给{name}的礼物。", "The {p} was meant as a gift for {name}."),
    ("Ich arbeite als Lehrerin in {city}.", "我在{city}当老师。", "I work as a teacher in {city}."),
    ("Sie erreichen mich am besten am {weekday}.", "{weekday}最容易联系到我。", "The best day to reach me is {weekday}."),
    ("Ich habe schon am {date} eine Nachricht geschickt.", "我在{date}已经发过一条消息。", "I already sent a message on {date}."),
    ("Am Telefon habe ich {count} Minuten gewartet.", "我在电话里等了{count}分钟。", "I waited on the phone for {count} minutes."),
    ("Ihre Kollegin {name} war sehr freundlich.", "您的同事{name}非常友好。", "Your colleague {name} was very friendly."),
    ("Leider hat sich bisher niemand gemeldet.", "可惜到现在还没有人联系我。", "Sadly nobody has got in touch so far."),
    ("Ich habe dafür lange gespart.", "我为此攒了很久的钱。", "I saved up for it for a long time."),
    ("Freunde aus {city} sind gerade zu Besuch.", "{city}的朋友正在我家做客。", "Friends from {city} are visiting right now."),
    ("Im Internet habe ich {count} gute Bewertungen gelesen.", "我在网上看到了{count}条好评。", "I read {count} good reviews on the internet."),
    ("Der Preis von {amount} Euro war in Ordnung.", "{amount}欧元的价格还可以。", "The price of {amount} euros was fine."),
    ("Wir haben zu Hause eine kleine Katze.", "我们家里有一只小猫。", "We have a little cat at home."),
    ("Ich bin ab dem {date} im Urlaub.", "我从{date}开始休假。", "I will be on holiday from {date}."),
    ("Mein alter Artikel in {colour} war {count} Jahre im Einsatz.", "我那个{colour}的旧产品用了{count}年。", "My old item in {colour} was in use for {count} years."),
    ("Normalerweise bin ich mit Ihnen sehr zufrieden.", "平时我对你们非常满意。", "Normally I am very happy with you."),
    ("Ich hoffe auf eine schnelle Lösung.", "我希望能尽快解决。", "I hope for a quick solution."),
    ("Mein Mann ist am {weekday} nach {city} gefahren.", "我丈夫{weekday}去了{city}。", "My husband went to {city} on {weekday}."),
    ("Das ist mir vorher noch nie passiert.", "我以前从来没有遇到过这种事。", "This has never happened to me before."),
    ("Ich habe die Nachricht an {name} weitergeleitet.", "我已经把消息转给了{name}。", "I forwarded the message to {name}."),
    ("Unser Büro in {city} hat {count} Mitarbeiter.", "我们在{city}的办公室有{count}名员工。", "Our office in {city} has {count} employees."),
    ("Entschuldigen Sie bitte meine schlechte Sprache.", "请原谅我的语言不好。", "Please excuse my poor language skills."),
    ("Meine Mutter wird bald {count} Jahre alt.", "我母亲快{count}岁了。", "My mother will soon be {count} years old."),
    ("Am {date} hatte ich Geburtstag.", "{date}是我的生日。", "My birthday was on {date}."),
    ("Können Sie mir kurz helfen?", "您能帮我一下吗？", "Can you help me for a moment?"),
    ("Haben Sie am {weekday} geöffnet?", "你们{weekday}营业吗？", "Are you open on {weekday}?"),
    ("Kennen Sie vielleicht {name} aus {city}?", "您认识{city}的{name}吗？", "Do you perhaps know {name} from {city}?"),
    ("Ich lese jede Woche Ihre Werbung.", "我每周都看你们的广告。", "I read your adverts every week."),
    ("Das Wetter in {city} ist heute herrlich.", "今天{city}的天气很好。", "The weather in {city} is lovely today."),
    ("Bitte leiten Sie das an {name} weiter.", "请把这件事转告{name}。", "Please pass this on to {name}."),
    ("Mit {dem_p} wollte ich {name} überraschen.", "我本来想用{p}给{name}一个惊喜。", "I wanted to surprise {name} with the {p}."),
    ("Ich habe in {city} auch schon {count} Läden besucht.", "我在{city}也去过{count}家店。", "I have also visited {count} shops in {city}."),
    ("Letztes Jahr habe ich bei Ihnen {amount} Euro ausgegeben.", "去年我在你们这里花了{amount}欧元。", "Last year I spent {amount} euros with you."),
    ("Ich schreibe diese Zeilen im Zug.", "我正在火车上写这些话。", "I am writing these lines on the train."),
    ("Meine Tochter {name} lacht schon über mich.", "我女儿{name}已经在笑我了。", "My daughter {name} is already laughing at me."),
    ("Vielleicht komme ich am {weekday} im Laden vorbei.", "也许我{weekday}会去店里一趟。", "Maybe I will drop by the shop on {weekday}."),
    ("Im Prospekt vom {date} sah alles so einfach aus.", "在{date}的宣传册里一切看起来都很简单。", "In the brochure of {date} everything looked so easy."),
)
