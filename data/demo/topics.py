"""The eight topics of the demo corpus: what customers complain about, in German, Chinese and English.

A topic's problems and wishes make its key sentences ("<product> from order <number> <problem>, and I would
like <wish>"); its details only give the topic away. German problems are split into the finite verb and the
rest, so that they fit a main clause and a subordinate one. Slots as in `sentences.py`.
"""
# ruff: noqa: E501

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Topic:
    """One label with everything that customers say about it."""

    label: str
    problems: tuple[tuple[str, str, str, str], ...]  # German verb, German rest, Chinese, English
    wishes: tuple[tuple[str, str, str], ...]  # German accusative, Chinese, English noun phrase
    details: tuple[tuple[str, str, str], ...]


# One row, one line.
# fmt: off
REFUND = ("eine Rückerstattung", "退款", "a refund")
REPLACEMENT = ("einen Ersatz", "换货", "a replacement")
CALL = ("einen Rückruf", "回电", "a call back")
DISCOUNT = ("einen Preisnachlass", "降价补偿", "a discount")

TOPICS: tuple[Topic, ...] = (
    Topic(
        "delivery",
        (
            ("ist", "noch nicht angekommen", "还没有送到", "has not arrived yet"),
            ("wurde", "an die falsche Adresse geliefert", "被送到了错误的地址", "was delivered to the wrong address"),
            ("ist", "viel zu spät gekommen", "送来得太晚了", "came far too late"),
            ("ist", "unterwegs verloren gegangen", "在途中丢失了", "was lost on the way"),
            ("wurde", "im Regen vor der Tür abgestellt", "在雨中被放在了门口", "was left outside the door in the rain"),
        ),
        (("einen neuen Liefertermin", "新的送货日期", "a new delivery date"), REFUND, CALL,
         ("eine neue Lieferung", "重新发货", "a new delivery")),
        (
            ("Der Paketbote hat am {date} nicht geklingelt.", "快递员在{date}没有按门铃。", "The courier did not ring the bell on {date}."),
            ("Das Paket liegt seit {count} Tagen im Lager in {city}.", "包裹在{city}的仓库里放了{count}天。", "The parcel has been in the warehouse in {city} for {count} days."),
            ("Die Sendungsverfolgung zeigt nur {city} an.", "物流信息只显示{city}。", "The tracking only shows {city}."),
            ("Der Fahrer hat sich am {weekday} verfahren.", "司机{weekday}走错了路。", "The driver got lost on {weekday}."),
            ("Für den Versand habe ich {amount} Euro extra bezahlt.", "我为运费多付了{amount}欧元。", "I paid {amount} euros extra for shipping."),
            ("Die Lieferung war für den {date} versprochen.", "原定的送货日期是{date}。", "The delivery was promised for {date}."),
            ("Der Bote hat das Paket bei {name} abgegeben.", "快递员把包裹交给了{name}。", "The courier handed the parcel to {name}."),
            ("Wo ist mein Paket jetzt?", "我的包裹现在在哪里？", "Where is my parcel now?"),
            ("Die Spedition ruft einfach nicht zurück.", "货运公司一直不回电话。", "The haulage company simply does not call back."),
            ("Am {weekday} habe ich den ganzen Tag auf den Boten gewartet.", "{weekday}我等了快递员一整天。", "On {weekday} I waited all day for the courier."),
        ),
    ),
    Topic(
        "billing",
        (
            ("wurde", "doppelt abgebucht", "被重复扣款了", "was charged twice"),
            ("wurde", "zum falschen Preis berechnet", "的价格算错了", "was billed at the wrong price"),
            ("wurde", "trotz Zahlung angemahnt", "付款后仍收到催款", "was dunned despite payment"),
            ("ist", "auf der Rechnung nicht aufgeführt", "没有出现在发票上", "is not listed on the invoice"),
            ("wurde", "ohne den Gutschein berechnet", "结算时没有使用优惠券", "was billed without the voucher"),
        ),
        (("eine korrigierte Rechnung", "更正后的发票", "a corrected invoice"), REFUND,
         ("eine Gutschrift", "账户返款", "a credit note"), CALL),
        (
            ("Auf der Rechnung stehen {amount} Euro.", "发票上写的是{amount}欧元。", "The invoice says {amount} euros."),
            ("Die Rechnung vom {date} liegt vor mir.", "{date}的发票就在我面前。", "The invoice of {date} is in front of me."),
            ("Von meinem Konto wurden {amount} Euro abgebucht.", "我的账户被扣了{amount}欧元。", "My bank account was debited {amount} euros."),
            ("Meine Bank hat die Zahlung am {date} bestätigt.", "我的银行在{date}确认了付款。", "My bank confirmed the payment on {date}."),
            ("Die Mahngebühr von {amount} Euro zahle ich nicht.", "我不会付{amount}欧元的催款费。", "I will not pay the dunning fee of {amount} euros."),
            ("Ich habe mit meiner Kreditkarte bezahlt.", "我是用信用卡付款的。", "I paid with my credit card."),
            ("Der Gutschein über {amount} Euro fehlt in der Summe.", "总额里少了{amount}欧元的优惠券。", "The voucher for {amount} euros is missing from the total."),
            ("Meine Buchhalterin {name} hat alles geprüft.", "我的会计{name}全都核对过了。", "My accountant {name} checked everything."),
            ("Warum ist die Steuer falsch berechnet?", "为什么税款算错了？", "Why is the tax calculated wrongly?"),
            ("Den Kontoauszug schicke ich Ihnen am {weekday}.", "我{weekday}把银行对账单发给您。", "I will send you the bank statement on {weekday}."),
        ),
    ),
    Topic(
        "cancellation",
        (
            ("wurde", "aus Versehen bestellt", "是误下单的", "was ordered by mistake"),
            ("wird", "nicht mehr gebraucht", "已经不需要了", "is no longer needed"),
            ("wurde", "von einem Kind ohne Erlaubnis bestellt", "是孩子未经同意订购的", "was ordered by a child without permission"),
            ("ist", "anderswo billiger zu haben", "在别处更便宜", "is cheaper elsewhere"),
            ("wurde", "versehentlich zweimal bestellt", "不小心订了两次", "was accidentally ordered two times"),
        ),
        (("eine Stornierung", "取消订单", "a cancellation"), REFUND,
         ("eine Bestätigung der Stornierung", "取消确认函", "a confirmation of the cancellation"), CALL),
        (
            ("Ich widerrufe den Kauf vom {date}.", "我要撤销{date}的购买。", "I revoke the purchase of {date}."),
            ("Der Knopf zum Stornieren ist grau.", "取消按钮是灰色的。", "The button to cancel is greyed out."),
            ("Die Widerrufsfrist endet am {date}.", "撤销期限到{date}为止。", "The withdrawal period ends on {date}."),
            ("Bitte stoppen Sie die Bestellung noch am {weekday}.", "请在{weekday}之前停止这个订单。", "Please stop the order by {weekday}."),
            ("Mein Abo möchte ich ebenfalls kündigen.", "我的订阅也想取消。", "I would like to end my subscription as well."),
            ("Die Kündigung habe ich am {date} geschickt.", "我在{date}寄出了解约通知。", "I sent the notice of termination on {date}."),
            ("Das Paket nehme ich nicht an.", "我不会签收包裹。", "I will not accept the parcel."),
            ("Gibt es eine Gebühr von {amount} Euro für den Rücktritt?", "退订要收{amount}欧元的手续费吗？", "Is there a fee of {amount} euros for withdrawing?"),
            ("Ich habe den Kauf nach {count} Minuten bereut.", "买完{count}分钟我就后悔了。", "I regretted the purchase after {count} minutes."),
            ("Meine Frau {name} hat schon woanders gekauft.", "我妻子{name}已经在别处买了。", "My wife {name} has already bought elsewhere."),
        ),
    ),
    Topic(
        "warranty",
        (
            ("ist", "kurz vor Ende der Garantie ausgefallen", "在保修期快结束时坏了", "failed just before the end of the warranty"),
            ("ist", "nach der Reparatur wieder ausgefallen", "维修之后又坏了", "failed again after the repair"),
            ("wurde", "in der Werkstatt nicht repariert", "在维修店没有修好", "was not repaired in the workshop"),
            ("ist", "laut Werkstatt nicht abgedeckt", "维修店说不在保修范围内", "is not covered according to the workshop"),
            ("wurde", "seit Wochen nicht zurückgeschickt", "送修几周还没有寄回", "has not been returned from repair for weeks"),
        ),
        (("eine kostenlose Reparatur", "免费维修", "a free repair"), REPLACEMENT, REFUND,
         ("eine Verlängerung der Garantie", "延长保修", "an extension of the warranty")),
        (
            ("Die Garantie läuft bis zum {date}.", "保修期到{date}。", "The warranty runs until {date}."),
            ("Den Garantieschein habe ich noch.", "保修卡我还留着。", "I still have the warranty card."),
            ("Die Werkstatt in {city} verlangt {amount} Euro.", "{city}的维修店要收{amount}欧元。", "The workshop in {city} asks for {amount} euros."),
            ("Der Techniker {name} hat es schon angesehen.", "技术员{name}已经看过了。", "The technician {name} has already looked at it."),
            ("Die erste Reparatur war am {date}.", "第一次维修是在{date}。", "The first repair was on {date}."),
            ("Die Garantie gilt doch {count} Monate.", "保修期应该有{count}个月。", "The warranty is valid for {count} months after all."),
            ("Ist das ein Fall für die Garantie?", "这属于保修范围吗？", "Is this a case for the warranty?"),
            ("Der Kostenvoranschlag liegt bei {amount} Euro.", "维修报价是{amount}欧元。", "The repair quote is {amount} euros."),
            ("Der Hersteller in {city} schickt mich zu Ihnen.", "{city}的厂家让我来找你们。", "The manufacturer in {city} sends me to you."),
            ("Ich habe das Gerät vor {count} Wochen eingeschickt.", "我{count}周前把机器寄去维修了。", "I sent the device in for repair {count} weeks ago."),
        ),
    ),
    Topic(
        "account access",
        (
            ("wird", "im Kundenkonto nicht angezeigt", "在客户账户里看不到", "is not shown in the customer account"),
            ("kann", "ohne Passwort nicht verfolgt werden", "没有密码无法查询", "cannot be tracked without the password"),
            ("ist", "mit einem fremden Konto verknüpft", "被关联到了别人的账户", "is linked to a stranger's account"),
            ("ist", "wegen der Kontosperre nicht abrufbar", "因账户被锁无法查看", "cannot be viewed because the account is locked"),
            ("kann", "nach der Anmeldung nicht geöffnet werden", "登录后打不开", "cannot be opened after logging in"),
        ),
        (("ein neues Passwort", "新密码", "a new password"),
         ("eine Freischaltung des Kontos", "账户解锁", "an unlocking of the account"), CALL,
         ("einen neuen Zugangscode", "新的验证码", "a new access code")),
        (
            ("Mein Passwort wird seit dem {date} abgelehnt.", "从{date}起我的密码就无效了。", "My password has been rejected since {date}."),
            ("Die Anmeldung schlägt immer wieder fehl.", "登录总是失败。", "The login fails again and again."),
            ("Ich habe mich {count} Mal vertippt.", "我输错了{count}次。", "I mistyped {count} times."),
            ("Der Code kommt nicht auf meinem Handy an.", "我的手机收不到验证码。", "The code does not reach my mobile phone."),
            ("Mein Benutzername ist {name}.", "我的用户名是{name}。", "My user name is {name}."),
            ("Jemand hat sich aus {city} angemeldet.", "有人在{city}登录过。", "Somebody logged in from {city}."),
            ("Meine alte Mailadresse gibt es nicht mehr.", "我的旧邮箱已经不用了。", "My old mail address no longer exists."),
            ("Wie setze ich mein Passwort zurück?", "怎样重置密码？", "How do I reset my password?"),
            ("Das Konto ist seit {count} Tagen gesperrt.", "账户已经被锁了{count}天。", "The account has been locked for {count} days."),
            ("Der Link in Ihrer Mail vom {date} ist abgelaufen.", "您{date}邮件里的链接已经过期了。", "The link in your mail of {date} has expired."),
        ),
    ),
    Topic(
        "product defect",
        (
            ("ist", "beschädigt angekommen", "到货时已经损坏", "arrived damaged"),
            ("lässt", "sich nicht einschalten", "无法开机", "cannot be switched on"),
            ("hat", "einen tiefen Kratzer", "有一道很深的划痕", "has a deep scratch"),
            ("wird", "nach kurzer Zeit sehr heiß", "很快就变得很烫", "gets very hot after a short time"),
            ("macht", "laute Geräusche", "发出很大的噪音", "makes loud noises"),
        ),
        (REPLACEMENT, REFUND, DISCOUNT, ("ein Ersatzteil", "备用零件", "a spare part")),
        (
            ("Das Gehäuse hat einen Riss.", "外壳有一条裂缝。", "The housing has a crack."),
            ("Am {date} kam Rauch aus dem Gerät.", "{date}机器冒烟了。", "On {date} smoke came out of the device."),
            ("Ein Teil in {colour} ist abgebrochen.", "一个{colour}的零件断了。", "A part in {colour} has broken off."),
            ("Nach {count} Minuten geht es einfach aus.", "用了{count}分钟就自动关了。", "After {count} minutes it simply turns off."),
            ("Es riecht stark nach verbranntem Plastik.", "有一股很浓的塑料烧焦味。", "It smells strongly of burnt plastic."),
            ("Die Lampe blinkt nur noch in {colour}.", "指示灯只闪{colour}。", "The light only blinks {colour} now."),
            ("Der Stecker ist völlig verbogen.", "插头完全弯了。", "The plug is completely bent."),
            ("Fotos vom Schaden habe ich am {date} gemacht.", "我在{date}拍了损坏的照片。", "I took photos of the damage on {date}."),
            ("Auch {name} konnte den Fehler sehen.", "{name}也看到了这个故障。", "{name} could see the fault too."),
            ("Ist der Fehler bei Ihnen bekannt?", "你们知道这个故障吗？", "Is the fault known to you?"),
        ),
    ),
    Topic(
        "product question",
        (
            ("ist", "ohne Maße beschrieben", "没有标明尺寸", "is described without dimensions"),
            ("ist", "vielleicht nicht für Kinder geeignet", "可能不适合儿童", "may not be suitable for children"),
            ("hat", "keine Angabe zum Stromverbrauch", "没有标明耗电量", "has no information on power consumption"),
            ("hat", "nur eine kurze Beschreibung", "只有很短的说明", "has only a short description"),
            ("passt", "vielleicht nicht zum alten Zubehör", "可能和旧配件不匹配", "may not fit the old accessories"),
        ),
        (("eine Beratung", "购买咨询", "some advice"), ("ein Datenblatt", "产品参数表", "a data sheet"), CALL,
         ("ein Muster", "样品", "a sample")),
        (
            ("Wie schwer ist {der_p} eigentlich?", "{p}到底有多重？", "How heavy is the {p} actually?"),
            ("Gibt es {den_p} auch in {colour}?", "{p}也有{colour}的吗？", "Is the {p} also available in {colour}?"),
            ("Ist das Modell von {date} besser?", "{date}的型号更好吗？", "Is the model of {date} better?"),
            ("Aus welchem Material besteht {der_p}?", "{p}是什么材料做的？", "What material is the {p} made of?"),
            ("Reichen {count} Zentimeter Abstand aus?", "留{count}厘米的距离够吗？", "Is a distance of {count} centimetres enough?"),
            ("Mich interessiert auch das Modell für {amount} Euro.", "我对{amount}欧元的型号也感兴趣。", "I am also interested in the model for {amount} euros."),
            ("Kann man das Modell in {city} ansehen?", "可以在{city}看到这个型号吗？", "Can one look at the model in {city}?"),
            ("Welches Modell würde {name} empfehlen?", "{name}会推荐哪个型号？", "Which model would {name} recommend?"),
            ("In der Beschreibung finde ich dazu nichts.", "产品说明里没有写。", "I find nothing about it in the description."),
            ("Wird das Modell noch hergestellt?", "这个型号还在生产吗？", "Is the model still being made?"),
        ),
    ),
    Topic(
        "installation help",
        (
            ("lässt", "sich nicht mit dem Netz verbinden", "连不上网络", "cannot be connected to the network"),
            ("ist", "ohne Anleitung gekommen", "没有附带说明书", "came without instructions"),
            ("kann", "nicht an der Wand befestigt werden", "无法固定在墙上", "cannot be fixed to the wall"),
            ("wird", "von der App nicht gefunden", "在应用里搜索不到", "is not found by the app"),
            ("ist", "nur halb aufgebaut", "只装好了一半", "is only half assembled"),
        ),
        (("eine Anleitung", "安装说明书", "a manual"), ("einen Monteur", "安装师傅", "a fitter"), CALL,
         ("eine Hilfe beim Aufbau", "安装帮助", "some help with the assembly")),
        (
            ("In der Tüte fehlen {count} Schrauben.", "袋子里少了{count}颗螺丝。", "There are {count} screws missing from the bag."),
            ("Schritt {count} der Anleitung verstehe ich nicht.", "我看不懂说明书的第{count}步。", "I do not understand step {count} of the instructions."),
            ("Die App zeigt beim Einrichten Fehler {amount} an.", "应用在设置时显示错误{amount}。", "The app shows error {amount} during set-up."),
            ("Das Kabel in {colour} ist zu kurz.", "{colour}的线太短了。", "The cable in {colour} is too short."),
            ("Zum Aufbau brauche ich wohl {name}.", "安装的时候大概需要{name}帮忙。", "I probably need {name} for the assembly."),
            ("Seit {count} Stunden sitze ich am Aufbau.", "我已经装了{count}个小时。", "I have been working on the assembly for {count} hours."),
            ("Welches Werkzeug brauche ich dafür?", "我需要用什么工具？", "Which tool do I need for it?"),
            ("Die Bohrlöcher passen nicht zur Wand.", "钻孔和墙对不上。", "The drill holes do not match the wall."),
            ("Der Monteur aus {city} kostet {amount} Euro.", "{city}的安装师傅要收{amount}欧元。", "The fitter from {city} costs {amount} euros."),
            ("Das Video zum Einrichten vom {date} ist gelöscht.", "{date}的安装视频被删除了。", "The set-up video of {date} has been deleted."),
        ),
    ),
)
